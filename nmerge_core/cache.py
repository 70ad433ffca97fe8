"""Where runs, artefacts, the demo family and task YAMLs are kept."""

import os
import stat
from contextlib import suppress
from os.path import expanduser, isfile  # which raise of no name, where pathlib's do
from pathlib import Path

from nmerge_core.places import PACKAGE, default_cache

DEMO = "demo"  # the demo family's folder in the cache
BENCHMARKS = PACKAGE / "evaluation" / "benchmarks"  # tasks we have a YAML of our own for

_PRIVATE = ("runs", "families", "statistics", "drafts", "candidates")


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


def task_file(reference: str, root: Path) -> Path | None:
    """Return the YAML file of a task; none where there is no such file, or where the task may be one of lm-eval's own.

    Args:
        reference: The path of a YAML, the name of a task of the demo family, or that of one of our benchmarks.
        root: The cache that holds the demo family.
    """
    path = Path(expanduser(reference))
    if path.suffix in (".yaml", ".yml"):
        return path if isfile(path) else None
    files = (folder / f"{reference}.yaml" for folder in (root / DEMO / "tasks", BENCHMARKS))
    return next((file for file in files if isfile(file)), None)
