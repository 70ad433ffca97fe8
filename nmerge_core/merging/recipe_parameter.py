"""A whole recipe as a parameter: of a run, its content is that of everything the recipe reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from nmerge_core.checkpoints import Checkpoint, open_checkpoint
from nmerge_core.inputs import Places
from nmerge_core.merging.engine import load
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.number_format import choose_format
from nmerge_core.parameters import NO_CONTENT, Document


@dataclass(frozen=True, kw_only=True)
class RecipeParameter(Document):
    """A recipe of either engine: a YAML file, YAML text, or what stands in it."""

    kind: ClassVar[str] = "recipe"

    def content(self, value: Any, places: Places) -> tuple[Any, Mapping[str, str]]:
        """Return what stands in the recipe, everything named in full, and the fingerprint of all that it reads."""
        recipe, found = load(value).in_full(places)
        return recipe.content, found

    def formats(self, value: Any, device: str) -> Mapping[str, str]:
        """Return the formats of models that are run before the merge."""
        recipe = load(value)
        return run_formats(recipe, device) if isinstance(recipe, Recipe) else NO_CONTENT


def run_formats(recipe: Recipe, device: str) -> dict[str, str]:
    """Return the number formats in which a recipe has models run on a device: its models, or merges held in memory."""
    values, found = recipe.values(), dict[str, str]()
    if recipe.method.solves(values):
        found["models run in"] = choose_format(_donor(recipe), recipe.run_dtype, device).name
    if recipe.method.searches(values):
        found["candidates run in"] = merged_format(recipe, recipe.run_dtype, device)
    return found


def merged_format(recipe: Recipe, run_dtype: str, device: str) -> str:
    """Return the number format in which what a recipe makes runs on a device."""
    return choose_format(_donor(recipe), run_dtype, device, written=recipe.dtype).name


def _donor(recipe: Recipe) -> Checkpoint:
    return open_checkpoint(recipe.base_model or recipe.references[0])
