"""Merging: the methods, what a merge will take, the merge, its change as an adapter, and the search of a recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import pandas as pd

from nmerge_core.cache import cache_root
from nmerge_core.errors import InputError, unknown
from nmerge_core.face.results import (
    Combined,
    Extracted,
    Merged,
    Sweep,
)
from nmerge_core.files.kept_files import read_csv
from nmerge_core.merging import engine
from nmerge_core.merging.recipe import registry
from nmerge_core.parameters.settings import ALLOW_TASK_CODE, DEVICE, RUN_CODE
from nmerge_core.progress import shown_progress
from nmerge_core.runs.kept import finished_results

if TYPE_CHECKING:
    from nmerge_core.merging.mergekit.process import Plan
    from nmerge_core.merging.plan.estimate import Estimate

from nmerge_core.face.calls import Reference, do, text


@overload
def methods() -> pd.DataFrame: ...


@overload
def methods(name: str) -> registry.Method: ...


def methods(name: str | None = None) -> pd.DataFrame | registry.Method:
    """Return a table of the merge methods, or one of them with its parameters, their ranges and defaults.

    Args:
        name: the method.

    Raises:
        InputError: there is no such method.
    """
    known = registry.methods()
    if name is None:
        columns = ("name", "title", "paper", "summary")
        return pd.DataFrame([{column: getattr(each, column) for column in columns} for each in known.values()])
    if name not in known:
        raise InputError(f"method: {unknown(name, known, '`nm.methods()`')}")
    return known[name]


def estimate(recipe: Reference | Mapping[str, Any]) -> "Estimate | Plan":
    """Tell from headers alone what a merge reads, writes and takes.

    Args:
        recipe: a YAML file, its text, or what stands in it.

    Raises:
        InputError: the recipe is wrong, or does not fit its models.
    """
    return engine.estimate(engine.load(recipe), cache_root() / "estimate")


def merge(
    recipe: Reference | Mapping[str, Any],
    out: Reference | None = None,
    *,
    device: str = DEVICE.default,
    progress: bool = True,
) -> Merged:
    """Merge models as a recipe says, into a complete checkpoint.

    Args:
        recipe: a YAML file as mergekit has them and more, its text, or what stands in it.
        out: the folder to write, which must be new; a run of the cache by default.
        device: "auto", "cpu", "cuda:1", ….
        progress: whether it is shown.

    Raises:
        InputError: the recipe is wrong or does not fit its models, `out` exists, or the disk is full.
    """
    if out is None:
        return Merged(do("merge", progress, recipe=recipe, device=device).results / "merged")
    folder = Path(text(out))
    told = shown_progress(progress)
    engine.merge(engine.load(recipe), folder, device=device, progress=told, kept=finished_results)
    return Merged(folder)


def combine(recipe: Reference | Mapping[str, Any], *, device: str = DEVICE.default, progress: bool = True) -> Combined:
    """Merge LoRA adapters of one base in their core space, into one adapter, exactly.

    Args:
        recipe: whose models are BASE+ADAPTER each: a YAML file, its text, or what stands in it.
        device: "auto", "cpu", "cuda:1", ….
        progress: whether it is shown.

    Raises:
        InputError: a model is no LoRA of the base, or the method goes by more than weights.
    """
    return Combined(do("combine", progress, recipe=recipe, device=device).results / "adapter")


def extract(
    base: Reference, model: Reference, rank: int, *, device: str = DEVICE.default, progress: bool = True
) -> Extracted:
    """Make a LoRA adapter of what a merge or a fine-tune changed of its base.

    Args:
        base: the base model.
        model: what was made of it.
        rank: the rank of each linear layer's change.
        device: "auto", "cpu", "cuda:1", ….
        progress: whether it is shown.
    """
    path = do("extract", progress, base=base, model=model, rank=rank, device=device).results
    return Extracted(path / "adapter", read_csv(path / "changes.csv"))


def sweep(
    sweep: Reference | Mapping[str, Any],
    *,
    run_code: bool = RUN_CODE.default,
    allow_task_code: bool = ALLOW_TASK_CODE.default,
    device: str = DEVICE.default,
    progress: bool = True,
) -> Sweep:
    """Search recipe parameters: every trial is merged and evaluated; a stopped sweep goes on where it was.

    Args:
        sweep: a YAML file with recipe, search, tasks and strategy, its text, or what stands in it.
        run_code: let tasks run the code that a merge writes, in the sandbox.
        allow_task_code: let tasks run code of their own, outside of any sandbox: read it first.
        device: "auto", "cpu", "cuda:1", ….
        progress: whether it is shown.
    """
    return Sweep(
        do("sweep", progress, sweep=sweep, run_code=run_code, allow_task_code=allow_task_code, device=device).results
    )
