"""Where runs, artefacts and the demo family are kept."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
DEMO = "demo"  # the demo family's folder in the cache


def cache_root() -> Path:
    """Return the folder of everything NMerge keeps: $NMERGE_CACHE, or cache/ of the project."""
    return Path(os.environ.get("NMERGE_CACHE") or PROJECT / "cache").expanduser().resolve()
