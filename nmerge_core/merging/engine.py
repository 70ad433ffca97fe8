"""The recipe's key `engine`: whether NMerge's own methods merge it, or mergekit's."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmerge_core.merging.mergekit.recipe import ENGINE, MergekitRecipe, read_mergekit
from nmerge_core.merging.recipe.recipe import Recipe, load_recipe, read_content, recipe_yaml
from nmerge_core.progress import Progress, silent

if TYPE_CHECKING:
    from nmerge_core.merging.write.report import Report

AnyRecipe = Recipe | MergekitRecipe


def load(source: Path | str | Mapping[str, Any]) -> AnyRecipe:
    """Read a recipe for either engine, from a YAML file, YAML text or a mapping.

    Raises:
        InputError: as `load_recipe` and `read_mergekit`.
    """
    content = read_content(source)
    return read_mergekit(content) if content.get("engine") == ENGINE else load_recipe(source)


def written(recipe: AnyRecipe) -> str:
    """Write a recipe as YAML; reading it again gives the same merge."""
    return recipe.yaml() if isinstance(recipe, MergekitRecipe) else recipe_yaml(recipe)


def merge(recipe: AnyRecipe, out: Path, *, device: str = "auto", progress: Progress = silent) -> "Report":
    """Merge by the recipe's engine, as `run.merge` or `mergekit_run.merge`."""
    # Imported here: reading a recipe needs neither.
    if isinstance(recipe, MergekitRecipe):
        from nmerge_core.merging.mergekit import engine as mergekit_run

        return mergekit_run.merge(recipe, out, device=device, progress=progress)
    from nmerge_core.merging import pipeline as run

    return run.merge(recipe, out, device=device, progress=progress)
