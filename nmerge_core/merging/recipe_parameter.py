"""A whole recipe as a parameter: of a run, its content is that of everything the recipe reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.inputs import Places
from nmerge_core.merging.engine import load
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.number_format import choose_format
from nmerge_core.parameters import Document


@dataclass(frozen=True, kw_only=True)
class RecipeParameter(Document):
    """A recipe of either engine: a YAML file, YAML text, or what stands in it."""

    kind: ClassVar[str] = "recipe"

    def content(self, value: Any, places: Places) -> tuple[Any, Mapping[str, str]]:
        """Return what stands in the recipe, everything named in full, and the fingerprint of all that it reads."""
        recipe, found = load(value).in_full(places)
        if isinstance(recipe, Recipe) and recipe.runs_models:
            donor = recipe.base_model or recipe.references[0]
            chosen = choose_format(open_checkpoint(donor), recipe.run_dtype, written=recipe.dtype)
            found["candidates run in"] = chosen.name
        return recipe.content, found
