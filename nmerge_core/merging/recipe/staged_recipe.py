"""A recipe in stages: earlier ones make models that later ones merge, the last one the output."""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nmerge_core.errors import InputError, shown
from nmerge_core.files.kept_files import digest
from nmerge_core.inputs import Places
from nmerge_core.merging.recipe import mergekit_recipe as mergekit
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.recipe import Recipe

_FEW = 2  # how often a stage is computed: of two models, writing one takes as much reading and writing as three times


@dataclass(frozen=True)
class StagedRecipe:
    """Recipes by the names of what they make, each after those that it names as models, and the last, without one."""

    stages: Mapping[str, Recipe]
    last: Recipe

    @property
    def each(self) -> Iterator[tuple[str | None, Recipe]]:
        """Every stage with its name, None for the last, in the order in which they are made."""
        yield from self.stages.items()
        yield None, self.last

    @cached_property
    def computed(self) -> frozenset[str]:
        """The stages that are computed when they are read, and not written.

        Their methods merge every entry by itself, with nothing found out before, and what merges them goes by weights
        alone and reads them no more than twice in all.
        """
        found = set[str]()
        read: dict[str, float] = dict.fromkeys(self.stages, 0)
        for name, recipe in reversed([*self.each]):
            made: float = 1  # how often its weights are merged
            if name is not None and recipe.is_entrywise and read[name] <= _FEW:
                found.add(name)
                made = read[name]
            again = made * recipe.method.passes(recipe.values()) if recipe.goes_by_weights else math.inf
            base = [recipe.base_model] if recipe.base_model and recipe.differences else []
            for model in (*base, *recipe.references):
                if model in read:
                    read[model] += again
        return frozenset(found)

    @property
    def merge_method(self) -> str:
        """The last stage's method."""
        return self.last.merge_method

    @property
    def base_model(self) -> None:
        """None: what the merge as a whole is measured from is not one stage's base."""
        return None

    @property
    def references(self) -> tuple[str, ...]:
        """Every model that is there before, in the recipe's order, each once."""
        found = [name for _, recipe in self.each for name in named_by(recipe) if name not in self.stages]
        return tuple(dict.fromkeys(found))

    @property
    def runs_models(self) -> bool:
        """Whether models are run on texts or tasks before they are merged, in some stage."""
        return any(recipe.runs_models for _, recipe in self.each)

    @property
    def searches(self) -> bool:
        """Whether a whole model is held in memory and run to find something, in some stage."""
        return any(recipe.searches for _, recipe in self.each)

    @property
    def content(self) -> dict[str, Any]:
        """What stands in its YAML, every default filled in."""
        return {"stages": {name: recipe.content for name, recipe in self.stages.items()}, **self.last.content}

    @property
    def yaml(self) -> str:
        """The recipe as YAML; reading it again gives the same merge."""
        return mergekit.write_yaml(self.content)

    def title(self, names: Mapping[str, str], family: Collection[str] = ()) -> str:
        """Name the merge by its last stage, and how many come before."""
        return f"{self.last.title(names, family)}, in {len(self.stages) + 1} stages"

    def in_full(self, places: Places) -> tuple["StagedRecipe", dict[str, str]]:
        """Return the recipe with all that its stages name in full, and the fingerprint of all that they read.

        Raises:
            InputError: something that a stage names is not there.
        """
        found: dict[str, str] = {}
        full = {}
        for name, own, inputs in self._in_full(places):
            found |= inputs
            full[name] = own
        stages = {name: full[name] for name in self.stages}
        return StagedRecipe(stages, full[None]), found

    def keys(
        self, places: Places, beside: str, formats: Mapping[str | None, Mapping[str, str]]
    ) -> dict[str | None, str]:
        """Return what tells each stage's result from any other.

        That is its recipe, all that it reads, the number formats in which it has models run, and what is `beside`.
        """
        return {name: digest([own.yaml, inputs, beside]) for name, own, inputs in self._in_full(places, formats)}

    def _in_full(
        self, places: Places, formats: Mapping[str | None, Mapping[str, str]] | None = None
    ) -> Iterator[tuple[str | None, Recipe, dict[str, str]]]:
        """Yield of each stage its name, its recipe in full, and the fingerprints of what it reads, with its formats."""
        made: dict[str, tuple[str, str]] = {}
        for name, recipe in self.each:
            own, inputs = recipe.in_full(places.with_models(made))
            inputs |= (formats or {}).get(name, {})
            yield name, own, inputs
            if name is not None:
                made[name] = (name, digest([own.yaml, inputs]))


def named_by(recipe: Recipe) -> list[str]:
    """Return every model that a recipe names."""
    return mergekit.named_models(recipe.content)


def read_staged(content: Mapping[str, Any], folder: Path | None) -> StagedRecipe:
    """Read a recipe with `stages`; `folder` is that of its file.

    Raises:
        InputError: a stage is wrong, names one that comes to need it, or is named by none.
    """
    given = content["stages"]
    if not isinstance(given, Mapping) or not given or not all(isinstance(each, Mapping) for each in given.values()):
        raise InputError(f"recipe, key 'stages': expected {{name: recipe}}, found {shown(given)}")
    recipes: dict[str | None, Recipe] = {}
    last = {key: value for key, value in content.items() if key != "stages"}
    for name, each in [*given.items(), (None, last)]:
        if name is not None and (not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum()):
            raise InputError(f"recipe, key 'stages': expected names of letters, digits, - and _, found {shown(name)}")
        if each.get("engine") == mergekit.ENGINE:
            raise InputError("recipe, key 'engine': stages are merged by NMerge; mergekit's own are for mergekit-multi")
        try:
            recipes[name] = replace(load_recipe(each), folder=folder)
        except InputError as error:
            raise InputError(f"stage '{name}': {error}" if name else str(error)) from error
    order: list[str] = []

    def visit(name: str | None, trail: tuple[str | None, ...]) -> None:
        if name in trail:
            circle = " → ".join(str(each) for each in (*trail[trail.index(name) :], name))
            raise InputError(f"recipe, key 'stages': expected stages that need earlier ones, found a circle: {circle}")
        if name in order:
            return
        for each in named_by(recipes[name]):
            if each in given:
                visit(each, (*trail, name))
        if name is not None:
            order.append(name)

    visit(None, ())
    if unused := [name for name in given if name not in order]:
        raise InputError(
            f"recipe, stage '{unused[0]}': expected a later one that names it as a model, found none; merge it by a "
            "recipe of its own"
        )
    return StagedRecipe({name: recipes[name] for name in order}, recipes[None])
