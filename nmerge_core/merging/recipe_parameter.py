"""A whole recipe as a parameter: of a run, its content is that of everything the recipe reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from nmerge_core.inputs import Places
from nmerge_core.merging.engine import load
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.recipe.staged_recipe import StagedRecipe
from nmerge_core.merging.run_formats import formats_of_stages, run_formats
from nmerge_core.parameters.parameter import NO_CONTENT
from nmerge_core.parameters.values import Document


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
            named = dict(formats_of_stages(recipe, device))
            return {f"stage {name}: {key}" if name else key: own[key] for name, own in named.items() for key in own}
        return run_formats(recipe, device) if isinstance(recipe, Recipe) else NO_CONTENT
