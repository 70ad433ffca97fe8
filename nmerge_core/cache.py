"""Where runs, artefacts, the demo family and task YAMLs are kept."""

import os
import re
import stat
from contextlib import suppress
from os.path import expanduser, isfile  # which raise of no name, where pathlib's do
from pathlib import Path

from nmerge_core.places import PACKAGE, default_cache

DEMO = "demo"  # the demo family's folder in the cache
BENCHMARKS = PACKAGE / "evaluation" / "benchmarks"  # tasks we have a YAML of our own for
LOCAL = PACKAGE / "evaluation" / "local"  # those that ask the problems of a file of one's own
_OF_A_FILE = re.compile(r"([A-Za-z]\w*)=(.+)")

_PRIVATE = ("runs", "families", "statistics", "searches", "drafts", "candidates")


def cache_root() -> Path:
    """Return the folder of everything NMerge keeps: $NMERGE_CACHE, or where this installation keeps it."""
    return Path(expanduser(os.environ.get("NMERGE_CACHE") or default_cache())).resolve()


def make_private(root: Path) -> None:
    """Make the folder of a cache, and keep what was computed and asked in it from the eyes of the host's other users.

    A folder that was there before may be used for other things too: it is left as it is, and what is private in it not.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in (root / name for name in _PRIVATE):
        with suppress(FileNotFoundError, PermissionError):  # there is none, or it is another user's, who says who may
            if stat.S_IMODE(folder.stat().st_mode) & 0o077:
                folder.chmod(0o700)


def task_data(reference: str) -> tuple[str, str]:
    """Return the task and the file of NAME=FILE, where NAME is one of ours; any other reference, and an empty text."""
    found = _OF_A_FILE.fullmatch(reference)
    if found is None or not any(isfile(folder / f"{found[1]}.yaml") for folder in (LOCAL, BENCHMARKS)):
        return reference, ""
    return found[1], found[2]


def own_tasks() -> list[str]:
    """Return the names of our tasks that take a file."""
    return sorted(file.stem for folder in (LOCAL, BENCHMARKS) for file in folder.glob("*.yaml"))


def task_file(reference: str, root: Path) -> Path | None:
    """Return the YAML file of a task; none where there is no such file, or where the task may be one of lm-eval's own.

    Args:
        reference: The path of a YAML, the name of a task of the demo family, that of one of our benchmarks, or
            NAME=FILE with one of our tasks and its problems.
        root: The cache that holds the demo family.
    """
    name, data = task_data(reference)
    if data:
        return next(folder / f"{name}.yaml" for folder in (LOCAL, BENCHMARKS) if isfile(folder / f"{name}.yaml"))
    path = Path(expanduser(reference))
    if path.suffix in (".yaml", ".yml"):
        return path if isfile(path) else None
    files = (folder / f"{reference}.yaml" for folder in (root / DEMO / "tasks", BENCHMARKS))
    return next((file for file in files if isfile(file)), None)
