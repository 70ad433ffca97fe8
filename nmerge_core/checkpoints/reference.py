"""What a user calls a model: a folder or a Hub id."""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from nmerge_core.errors import InputError

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]


def resolve(reference: str) -> Path:
    """Return the local folder of a model, fetching it when it is a Hub id that was not fetched before.

    Only safetensors weights are fetched. A model that is here already is used as it is, without asking the Hub.

    Raises:
        InputError: there is no such folder, and the Hub has no such model or cannot be reached.
    """
    folder = Path(reference).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InputError(f"{reference}: expected a model folder, found a file; name the folder that holds config.json")
    if not _HUB_ID.match(reference) or reference.startswith((".", "/")):
        raise InputError(
            f"{reference}: no such folder; expected a folder with config.json and *.safetensors, or a Hub id"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    with suppress(LocalEntryNotFoundError):
        here = Path(snapshot_download(reference, allow_patterns=_FILES, local_files_only=True))
        if any(here.glob("*.safetensors")):
            return here
    try:
        return Path(snapshot_download(reference, allow_patterns=_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{reference}: no such folder here, and the Hub did not give a model of that id ({reason}); "
            "check the spelling, the connection, or `hf auth login`"
        ) from error


def label(reference: str) -> str:
    """Return the short name of a model in tables and figures: the last part of its path or id."""
    return Path(reference.rstrip("/")).name or reference


def labels(references: Sequence[str]) -> list[str]:
    """Return a distinct label per reference: parent folders are added where the last parts collide."""
    parts = [Path(reference.rstrip("/")).parts or (reference,) for reference in references]
    result = []
    for own in parts:
        depth = 1
        while depth < len(own) and sum(other[-depth:] == own[-depth:] for other in parts) > 1:
            depth += 1
        result.append("/".join(own[-depth:]).lstrip("/"))
    return result
