"""Who merges a recipe: NMerge's own methods, in one stage or several, or mergekit's. Nobody else decides."""

from pathlib import Path
from typing import TYPE_CHECKING

from nmerge_core.merging.plan.kept import Kept, nothing_kept
from nmerge_core.merging.recipe.mergekit_recipe import ENGINE, MergekitRecipe, read_mergekit
from nmerge_core.merging.recipe.reading import Source, file_of, load_recipe, read_content
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.recipe.staged_recipe import StagedRecipe, read_staged
from nmerge_core.progress import Progress, silent

if TYPE_CHECKING:
    from nmerge_core.merging.mergekit.process import Plan
    from nmerge_core.merging.plan.estimate import Estimate
    from nmerge_core.merging.write.report import Report

AnyRecipe = Recipe | StagedRecipe | MergekitRecipe


def load(source: Source) -> AnyRecipe:
    """Read a recipe for either engine, from a YAML file, YAML text or a mapping.

    Raises:
        InputError: as `load_recipe`, `read_staged` and `read_mergekit`.
    """
    content = read_content(source)
    if content.get("stages") is not None:
        return read_staged(content, file.parent if (file := file_of(source)) else None)
    return read_mergekit(content) if content.get("engine") == ENGINE else load_recipe(source)


def estimate(recipe: AnyRecipe, out: Path, progress: Progress = silent) -> "Estimate | Plan":
    """Check everything that a merge into `out` needs, and return what it will read, write and take.

    Raises:
        InputError: the recipe does not fit its models, `out` exists or its disk has too little room.
    """
    if isinstance(recipe, MergekitRecipe):
        from nmerge_core.merging.mergekit.driver import plan

        return plan(recipe, out, progress)
    from nmerge_core.checkpoints.writer import check_target

    cost = expected(recipe, out)
    check_target(out, cost.bytes_written)
    return cost


def expected(recipe: Recipe | StagedRecipe, out: Path) -> "Estimate":
    """Return what a merge of our own near `out` will read, write and take, wherever it is written.

    Raises:
        InputError: the recipe does not fit its models.
    """
    if isinstance(recipe, StagedRecipe):
        from nmerge_core.merging.stages import estimate as of_stages

        return of_stages(recipe, out)
    from nmerge_core.merging.plan.estimate import estimate as of_one

    return of_one(recipe, out)


def merge(
    recipe: AnyRecipe, out: Path, *, device: str = "auto", progress: Progress = silent, kept: Kept = nothing_kept
) -> "Report":
    """Merge by the recipe's engine, as `pipeline`, `stages`, or `mergekit.driver`, which measures nothing, merge."""
    # Imported here: reading a recipe needs neither.
    if isinstance(recipe, MergekitRecipe):
        from nmerge_core.merging.mergekit import driver

        return driver.merge(recipe, out, device=device, progress=progress)
    from nmerge_core.merging import pipeline, stages

    if isinstance(recipe, StagedRecipe):
        return stages.merge(recipe, out, device=device, progress=progress, kept=kept)
    return pipeline.merge(recipe, out, device=device, progress=progress, kept=kept)
