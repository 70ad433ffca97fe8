"""A family as a parameter of a run: its content is that of every model, corpus and task that it names."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from nmerge_core.cache import DEMO, cache_root
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.family import Family, demo_family, load_family, read_family
from nmerge_core.inputs import Places
from nmerge_core.number_format import choose_format
from nmerge_core.parameters.values import Document

_NAME = "name"  # of a family that is no file


@dataclass(frozen=True, kw_only=True)
class FamilyParameter(Document):
    """A family: its YAML file, what stands in it, or `demo`."""

    kind: ClassVar[str] = "family"

    @property
    def expected(self) -> str:
        """The words."""
        return f"a family's YAML file, what stands in one, or {DEMO}"

    def content(self, value: Any, places: Places) -> tuple[Any, Mapping[str, str]]:
        """Return what stands in the family, named in full, and the fingerprint of all that it names."""
        family = open_family(value)
        return content_of(family), fingerprints(family, places)

    def formats(self, value: Any, device: str) -> Mapping[str, str]:
        """Return the format that each of the family's models runs in."""
        named = [member.reference for member in open_family(value).members]
        return {f"{each} runs in": choose_format(open_checkpoint(each), device=device).name for each in named}


def open_family(value: Any) -> Family:
    """Return the family of a file, of what stands in one, or the demo.

    Raises:
        InputError: there is no such file, or it has a mistake.
    """
    if isinstance(value, Mapping):
        content = dict(value)
        return read_family(content, str(content.pop(_NAME, "family")), Path(), "family")
    return demo_family(cache_root()) if value == DEMO else load_family(value)


def content_of(family: Family) -> dict[str, Any]:
    """Return what stands in a family, and its name, as a report of it depends on them."""
    written: dict[str, Any] = yaml.safe_load(family.to_yaml())
    return {_NAME: family.name} | {key: written[key] for key in ("base", "models", "corpus", "tasks") if key in written}


def fingerprints(family: Family, places: Places) -> dict[str, str]:
    """Return the fingerprint of every input of a family by its name.

    Raises:
        InputError: one of them is not there.
    """
    found = {member.reference: places.model(member.reference)[1] for member in family.members}
    found |= {family.corpus: places.corpus(family.corpus)[1]} if family.corpus else {}
    return found | {task: places.task(task)[1] for task in family.tasks}
