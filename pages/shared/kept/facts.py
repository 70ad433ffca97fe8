"""What each model on a page is: base, fine-tune, or a merge by a method with its parameters, as its folder tells."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import pandas as pd

from nmerge_core.errors import InputError
from nmerge_core.family import Family
from nmerge_core.merging.engine import load
from nmerge_core.merging.recipe.changes import side_by_side
from nmerge_core.merging.recipe.recipe import Recipe

RECIPE = "nmerge_recipe.yaml"  # in a merged checkpoint: its recipe, with all that was filled in
BASE, FINE_TUNE, MERGE = "base", "fine-tune", "merge"


def recipe_of(reference: str) -> Recipe | None:
    """The recipe that a checkpoint was merged by; None where its folder has none that is read here."""
    file = Path(reference) / RECIPE
    try:
        return _read(file, file.stat().st_mtime_ns)
    except OSError:  # no merge of ours, or a model of the Hub
        return None


@lru_cache(maxsize=512)
def _read(file: Path, modified: int) -> Recipe | None:
    """Read a recipe; `modified` is there to make the cache forget a rewritten file."""
    try:
        recipe = load(file)
    except InputError:
        return None
    return recipe if isinstance(recipe, Recipe) else None


def kinds_of(models: Mapping[str, str], family: Family, merges: Sequence[str]) -> dict[str, str]:
    """What each model is, by name: base, fine-tune, or the title of the method of a merge.

    Args:
        models: Name → folder or Hub id.
        family: Whose models they are.
        merges: The names of merges of them.
    """
    made = {each.label for each in family.models if each.merged} | {*merges}
    return {name: _kind(reference, family, name in made) for name, reference in models.items()}


def _kind(reference: str, family: Family, merged: bool) -> str:
    if reference == family.base:
        return BASE
    recipe = recipe_of(reference)
    return recipe.method.title if recipe else MERGE if merged else FINE_TUNE


def parameters_of(models: Mapping[str, str], family: Family) -> pd.DataFrame:
    """A row per model that is a merge, a column of text per setting; those that they have otherwise come first."""
    found = {name: recipe for name, reference in models.items() if (recipe := recipe_of(reference)) is not None}
    return pd.DataFrame(side_by_side(list(found.values()), family.labels), index=list(found))
