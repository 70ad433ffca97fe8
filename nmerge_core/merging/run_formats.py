"""In which number formats a merge has models run on the way, or runs itself: its result hangs on them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nmerge_core.checkpoints import Checkpoint, open_checkpoint
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.recipe.staged_recipe import StagedRecipe
from nmerge_core.number_format import choose_format


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


def formats_of_stages(recipe: StagedRecipe, device: str) -> Iterator[tuple[str | None, Mapping[str, str]]]:
    """Yield of each stage its name and the number formats in which it has models run."""
    made: dict[str, _Donor] = {}
    for name, stage in recipe.each:
        donor = made.get(_donor_name(stage)) or _donor(stage)
        yield name, _run_formats(stage, donor, device)
        if name:
            made[name] = _Donor(donor.checkpoint, stage.dtype or donor.written)


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
