"""A whole recipe as a parameter: of a run, its content is that of everything the recipe reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from nmerge_core.checkpoints import Checkpoint, open_checkpoint
from nmerge_core.inputs import Places
from nmerge_core.merging.engine import load
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.recipe.staged_recipe import StagedRecipe
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
        if isinstance(recipe, StagedRecipe):
            return _formats_of_stages(recipe, device)
        return run_formats(recipe, device) if isinstance(recipe, Recipe) else NO_CONTENT


@dataclass(frozen=True)
class _Donor:
    """The model that gives a merge its shape, or the one that gave it to a stage, and what that stage is written in."""

    checkpoint: Checkpoint
    written: str | None = None


def run_formats(recipe: Recipe, device: str) -> dict[str, str]:
    """Return the number formats in which a recipe has models run on a device: its models, or merges held in memory."""
    return _run_formats(recipe, _donor(recipe), device)


def merged_format(recipe: Recipe, run_dtype: str, device: str) -> str:
    """Return the number format in which what a recipe makes runs on a device."""
    return choose_format(_donor(recipe).checkpoint, run_dtype, device, written=recipe.dtype).name


def _formats_of_stages(recipe: StagedRecipe, device: str) -> dict[str, str]:
    """Return the number formats in which each stage has models run."""
    made: dict[str, _Donor] = {}
    found = {}
    for name, stage in recipe.each:
        donor = made.get(_donor_name(stage)) or _donor(stage)
        own = _run_formats(stage, donor, device)
        found.update({f"stage {name}: {key}" if name else key: value for key, value in own.items()})
        if name:
            made[name] = _Donor(donor.checkpoint, stage.dtype or donor.written)
    return found


def _run_formats(recipe: Recipe, donor: _Donor, device: str) -> dict[str, str]:
    values, found = recipe.values(), dict[str, str]()
    if recipe.method.solves(values):
        models = choose_format(donor.checkpoint, recipe.run_dtype, device, written=donor.written)
        found["models run in"] = models.name
    if recipe.method.searches(values):
        written = recipe.dtype or donor.written
        found["candidates run in"] = choose_format(donor.checkpoint, recipe.run_dtype, device, written=written).name
    return found


def _donor(recipe: Recipe) -> _Donor:
    return _Donor(open_checkpoint(_donor_name(recipe)))


def _donor_name(recipe: Recipe) -> str:
    return recipe.base_model or recipe.references[0]
