"""What merges measured on the way and left in the cache: statistics of models on texts, and trails of searches."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmerge_core.files.kept_files import Damaged, read_object
from nmerge_core.merging.recipe.registry import methods

_KINDS = {"fisher": "Fisher information", "gram": "Gram matrices", "magnitude": "Input magnitudes"}


@dataclass(frozen=True)
class Measured:
    """A folder or file of the cache: what it holds, of whom, and whether it is `whole` or goes on with its merge.

    `size` is in bytes, `used` when it was written or gone by last, in seconds since 1970.
    """

    path: Path
    what: str
    of: str
    whole: bool
    size: int
    used: float


def measured_on_the_way(root: Path) -> list[Measured]:
    """Return all that merges have left in a cache, used last first.

    No finished merge needs it: its recipe names the texts, from which it is measured again.
    """
    found = list[Measured]()
    for folder, measured in ((root / "statistics", _statistics), (root / "searches", _search)):
        for path in folder.iterdir() if folder.is_dir() else ():
            with suppress(FileNotFoundError):  # a merge has given it its name, or it was removed, since it was listed
                found += [each] if (each := measured(path)) else []
    return sorted(found, key=lambda each: (-each.used, each.path))


def _statistics(path: Path) -> Measured | None:
    kind, _, rest = path.name.lstrip(".").partition("-")
    if kind not in _KINDS or not path.is_dir():
        return None
    metas = [_meta(each) for each in (path, *sorted(path.iterdir())) if (each / "meta.json").is_file()]
    along = f" along {methods()[name].title}" if (name := rest.partition("-")[0]) in methods() else ""
    told = [f"{meta.get('label', '')} on {', '.join(meta.get('categories', ()))}" for meta in metas if meta]
    sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
    whole = not path.name.startswith(".")
    return Measured(path, f"{_KINDS[kind]}{along}", "; ".join(told), whole, sum(sizes), path.stat().st_mtime)


def _meta(folder: Path) -> dict[str, Any]:
    try:
        return read_object(folder / "meta.json")
    except Damaged:  # who goes by it collects it again
        return {}


def _search(path: Path) -> Measured | None:
    if path.suffix != ".jsonl":
        return None
    name = path.stem.rpartition("-")[0]
    title = methods()[name].title if name in methods() else name
    with path.open("rb") as lines:
        points = sum(1 for _ in lines)
    facts = os.stat(path)
    return Measured(path, f"Search of {title}", f"{points:,} points", True, facts.st_size, facts.st_mtime)
