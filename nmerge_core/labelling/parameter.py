"""Who labels neurons, as a parameter of a run: a chat model here, or a model that an endpoint serves."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlsplit

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.errors import InputError
from nmerge_core.inputs import Places
from nmerge_core.number_format import choose_format
from nmerge_core.parameters.inputs import Input
from nmerge_core.parameters.parameter import NO_CONTENT
from nmerge_core.parameters.values import Text

_SERVED = re.compile(r"([^@\s]+)@(https?://\S+)")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*_API_KEY")


@dataclass(frozen=True)
class Endpoint:
    """A model that a server answers for, over the chat completions of OpenAI's protocol."""

    model: str
    url: str

    @property
    def host(self) -> str:
        """The machine that texts are sent to."""
        return urlsplit(self.url).netloc

    @property
    def overheard(self) -> bool:
        """Whether texts and key go to another machine unencrypted."""
        address = urlsplit(self.url)
        return address.scheme == "http" and address.hostname not in ("localhost", "127.0.0.1", "::1")


def endpoint_of(by: str) -> Endpoint | None:
    """Return the endpoint that NAME@URL means; None where a labeller is a model on this machine.

    Raises:
        ValueError: the address has no host, or a password in it, which would be kept with the run.
    """
    if not (served := _SERVED.fullmatch(by)):
        return None
    address = urlsplit(served[2])
    if not address.hostname or address.username is not None or address.query or address.fragment:
        raise ValueError("expected an address such as https://host/v1, without user, key or query")
    return Endpoint(served[1], served[2].rstrip("/"))


@dataclass(frozen=True, kw_only=True)
class LabellerParameter(Input):
    """A chat model: a folder or Hub id, or MODEL+ADAPTER; or NAME@URL of an OpenAI-compatible endpoint."""

    kind: ClassVar[str] = "labeller"

    @property
    def expected(self) -> str:
        """The words."""
        return "a chat model's folder or Hub id, or NAME@URL of a model that an OpenAI-compatible endpoint serves"

    def parse(self, value: Any) -> Any:
        """Return the reference."""
        found = super().parse(value)
        endpoint_of(found)
        return found

    def content(self, value: Any, places: Places) -> tuple[Any, Mapping[str, str]]:
        """Return a model in full and its fingerprint; of an endpoint the name is all that is known."""
        return (value, NO_CONTENT) if endpoint_of(value) else super().content(value, places)

    def find(self, reference: str, places: Places) -> tuple[str, str]:
        """Fingerprint the weights, the configuration and what goes by the tokens."""
        return places.model(reference)

    def formats(self, value: Any, device: str) -> Mapping[str, str]:
        """Return the number format that a model on this machine answers in."""
        if endpoint_of(value):
            return NO_CONTENT
        return {f"{value} answers in": choose_format(open_checkpoint(value), device=device).name}


@dataclass(frozen=True, kw_only=True)
class KeyVariable(Text):
    """The name of an environment variable that holds the key of an endpoint, and of nothing else."""

    kind: ClassVar[str] = "key variable"

    @property
    def expected(self) -> str:
        """The words."""
        return "the name of an environment variable that ends in _API_KEY"

    def parse(self, value: Any) -> Any:
        """Return the name; any other secret of the environment might be sent by a slip."""
        if not isinstance(value, str) or not _VARIABLE.fullmatch(value):
            raise ValueError
        return value


def key_in(variable: str | None) -> str | None:
    """Return the key that an environment variable holds; None where none is named.

    Raises:
        InputError: there is no such variable, or no header can carry what it holds.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "")
    if not key or not key.isascii() or not key.isprintable():
        found = "none" if not key else "characters that no key has"
        raise InputError(
            f"key_from: expected a key in the environment variable {variable}, found {found}; set it where NMerge is "
            "started, for the app before the app is"
        )
    return key


BY = LabellerParameter(
    name="by",
    required=True,
    help="A chat model's folder or Hub id, or NAME@URL of an OpenAI-compatible endpoint, to which texts are sent then.",
)
KEY_FROM = KeyVariable(
    name="key_from",
    help="The environment variable with the endpoint's key, a name that ends in _API_KEY; the key itself is kept "
    "nowhere.",
)
