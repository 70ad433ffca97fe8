"""The licence that a model's card names."""

import re

import yaml

from nmerge_core.checkpoints.reference import folder_here
from nmerge_core.errors import InputError
from nmerge_core.files.small_file import read_small
from nmerge_core.files.yaml_file import load

_LARGEST = 1_000_000  # bytes of a card
_FRONT = re.compile(r"---\s*\n(.*?)\n---\s*(\n|$)", re.DOTALL)


def licence(reference: str) -> str | None:
    """Return the licence at the head of the README.md of a model or an adapter that is here; None where none is told.

    One that is called `other` is told by its own name, where it has one.
    """
    folder = folder_here(reference)
    if folder is None or not (folder / "README.md").exists():
        return None
    try:
        front = _FRONT.match(read_small(folder / "README.md", _LARGEST).decode("utf-8", errors="replace"))
        content = load(front[1], "README.md") if front else None
    except (InputError, yaml.YAMLError):  # a card is for people: what cannot be read tells of no licence
        return None
    if not isinstance(content, dict):
        return None
    told = content.get("license")
    own = content.get("license_name") if told == "other" else None
    return str(own or told) if isinstance(own or told, str) else None
