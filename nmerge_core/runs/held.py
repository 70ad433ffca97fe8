"""The models that short questions hold in memory, and how runs have room beside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nmerge_core.progress import Progress
from nmerge_core.runs.memory import free_memory, memory_needed
from nmerge_core.runs.models import LiveMerges, LoadedModels
from nmerge_core.runs.perform import Operation

# A run loads its own models, so that no question meets a run's hooks.
MODELS, LIVE = LoadedModels(), LiveMerges()


def beside_what_is_held(operation: Operation) -> Operation:
    """Free what questions have loaded, and then what a live merge holds, where a run does not fit beside it."""

    def run(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
        needed = memory_needed(operation.__name__, parameters)
        if needed > free_memory():
            MODELS.release()
        with LIVE.beside(needed):
            operation(parameters, results, progress)

    return run


def spare() -> None:
    """Free what questions have loaded and nobody has asked about for some minutes."""
    LIVE.spare()
    MODELS.spare()


def tell_lost() -> None:
    """Say in the next answer of a live merge that the process which held its models was lost."""
    LIVE.lost = "the worker process was lost (killed, or out of memory)"
