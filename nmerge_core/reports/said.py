"""What a report says of each figure and table in words, as its folder keeps it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nmerge_core.files.kept_files import read_object, reading, typed

VERDICTS = "verdicts.json"


@dataclass(frozen=True)
class Said:
    """What the paper finds, and what the family says to it; `behind` is what in its figure stands for neurons."""

    paper: str
    number: str
    title: str
    trend: str
    note: str
    verdict: str
    told: str
    behind: str = ""


def read_said(folder: Path) -> Mapping[str, Said]:
    """Read what is said of each entry of both papers, by its name, in their order; raises Damaged where it is none."""
    file = folder / VERDICTS
    items = read_object(file, {"items": dict})["items"]
    with reading(file):
        return {name: typed(Said, each) for name, each in items.items()}
