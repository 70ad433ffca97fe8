"""What a parameter is, said once: it describes itself, checks a value, reads it from text, and tells its content.

A merge method and a kind of run declare their parameters with the classes of this room. Command-line options, the
defaults of Python functions, controls of pages, the keys of runs, resolved recipes and the documentation follow from
them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from os import PathLike
from typing import Any, ClassVar, Self

from nmerge_core.errors import InputError, shown
from nmerge_core.files.yaml_file import plain
from nmerge_core.inputs import Places

NO_CONTENT: Mapping[str, str] = {}
_SYMBOLS = (("lambda_", "λ"), ("lambda", "λ"), ("alpha", "α"), ("omega", "ω"), ("gamma", "γ"), ("epsilon", "ε"))


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """What all kinds have: a name, what it is for, and a default; None is a value that is left unset.

    `per_model` ones stand beside a model in a recipe or, for all models, under `parameters`. One that `varies` also
    takes mergekit's gradient over the layers, or its list of filters (`gradients.at`).
    """

    name: str
    help: str
    default: Any = None
    required: bool = False
    per_model: bool = False
    varies: bool = False

    kind: ClassVar[str] = "value"

    @property
    def title(self) -> str:
        """The name for reading: Mask ratio, λ1, t."""
        words = self.name
        for name, symbol in _SYMBOLS:
            words = words.replace(name, symbol)
        words = words.replace("_", " ")
        return words if len(words) == 1 or not words.isascii() else words.capitalize()

    @property
    def expected(self) -> str:
        """What values are accepted, in words."""
        return "a value"

    def parse(self, value: Any) -> Any:
        """Return a value in this parameter's own type; raises ValueError where it is of another, or out of range."""
        return value

    def from_text(self, text: str) -> Any:
        """Read the value from an option of the command line; raises ValueError."""
        return self.parse(text)

    def content(self, value: Any, places: Places) -> tuple[Any, Mapping[str, str]]:
        """Return the value with all that it names in full, and the fingerprint of each thing that it names."""
        return value, NO_CONTENT

    def formats(self, value: Any, device: str) -> Mapping[str, str]:
        """Return the number formats that models run in on a device where a value in full has them run, by what runs."""
        return NO_CONTENT

    def without_solved(self, value: Any) -> Any:
        """Return the value without what a finished merge has filled in inside it."""
        return value

    def check(self, value: Any, where: str) -> Any:
        """Return a value in this parameter's own type; `where` begins the message of what is wrong.

        Raises:
            InputError: the value is of another kind or out of range.
        """
        if value is None:
            return None
        if not isinstance(value, PathLike):  # a path alone tells a file from text
            value = plain(value)
        if self.varies and isinstance(value, Mapping):  # mergekit's list of one filter
            value = [value]
        if not self.varies or not isinstance(value, list):
            return self._check_one(value, where)
        filters = [isinstance(part, Mapping) for part in value]
        if not value or any(filters) != all(filters):
            raise InputError(
                f"{where}: expected a list of numbers (a gradient over the layers) or of {{filter, value}}, "
                f"found {shown(value)}"
            )
        check = self._check_filter if filters[0] else self._check_one
        return [check(part, _at(where, index)) for index, part in enumerate(value)]

    def _check_one(self, value: Any, where: str) -> Any:
        try:
            return self.parse(value)
        except ValueError as error:
            reason = f" ({error})" if str(error) else ""
            raise InputError(f"{where}: expected {self.expected}, found {shown(value)}{reason}") from error

    def _check_filter(self, part: Mapping[Any, Any], where: str) -> dict[str, Any]:
        """Check one {filter, value} of a list of filters, its value a number or a gradient."""
        text, value = part.get("filter"), part.get("value")
        if not {"value"} <= part.keys() <= {"filter", "value"} or not isinstance(text, str | None) or value == []:
            raise InputError(f"{where}: expected {{filter: part of a name, value: …}}, found {shown(part)}")
        if isinstance(value, list):
            checked: Any = [self._check_one(point, _at(where, index)) for index, point in enumerate(value)]
        else:
            checked = self._check_one(value, where)
        return {"filter": text, "value": checked} if text is not None else {"value": checked}

    def described(self) -> dict[str, Any]:
        """Return what there is to say of it, as JSON has it."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"kind": self.kind, "expected": self.expected} | {
            name: value for name, value in own.items() if value not in (None, False, (), "")
        }

    def with_(self, **changes: Any) -> Self:
        """Return the same parameter with another default, range or help."""
        return replace(self, **changes)


def _at(where: str, index: int) -> str:
    """Return the place of an entry of the list that `where` names."""
    return f"{where[:-1]}[{index}]'" if where.endswith("'") else f"{where}[{index}]"
