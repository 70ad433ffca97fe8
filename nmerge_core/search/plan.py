"""What a sweep is: a recipe, what of it is searched and how, and what its trials are scored on."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nmerge_core.cache import cache_root
from nmerge_core.checkpoints import absolute
from nmerge_core.inputs import Places
from nmerge_core.merging.recipe.mergekit_recipe import renamed
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.recipe.steps import written_out
from nmerge_core.search.axis import Axis

Point = Mapping[str, Any]  # the value of each searched key
Weights = Mapping[str, float] | None  # of tasks, or of categories of texts, by their names; None for their mean


@dataclass(frozen=True)
class Sweep:
    """A checked sweep; `recipe` is as it was written, `folder` that of the file it came from.

    Trials are scored on `tasks`, or by their `loss` on the held-out texts of a corpus. Each of the `objectives` weighs
    these scores. `trials` is how many there are, whatever the strategy, and None where `minutes` alone bound them.
    `keep` says which merged checkpoints stay: all, none, the best, or so many of the best.
    """

    recipe: Mapping[str, Any]
    folder: Path
    axes: tuple[Axis, ...]
    strategy: str
    trials: int | None
    minutes: float | None
    seed: int
    tasks: tuple[str, ...]
    loss: str | None
    objectives: tuple[Weights, ...]
    prune: bool
    limit: int | None
    run_dtype: str
    keep: str | int

    def recipe_at(self, point: Point) -> Recipe:
        """Return the recipe of one trial; raises InputError where a value does not fit it."""
        return replace(load_recipe(self.content_at(point)), folder=self.folder)

    def content_at(self, point: Point) -> dict[str, Any]:
        """Return what stands in the recipe of one trial."""
        content = deepcopy(dict(self.recipe))
        if content.get("then") is not None:
            content["then"] = written_out(content["then"])
        for axis in self.axes:
            axis.put(content, point[axis.key])
        return content

    @property
    def first(self) -> dict[str, Any]:
        """The point of every key's first value, or of the low end of its range."""
        return {axis.key: axis.ends[0] for axis in self.axes}

    def points_of(self, axis: Axis) -> list[Point]:
        """Return a point for every value of an axis, or for both ends of its range, the other axes at their first."""
        return [{**self.first, axis.key: value} for value in axis.ends]

    @property
    def inputs(self) -> dict[str, str]:
        """The fingerprint of all that any trial reads, by its name: models, corpora, tasks and their data.

        Raises:
            InputError: one of them is not there, or cannot be read.
        """
        places = Places(cache_root(), self.folder)
        found = dict(map(places.task, self.tasks))
        if self.loss:
            found |= dict([places.corpus(self.loss)])
        for point in (point for axis in self.axes for point in self.points_of(axis)):
            _, inputs = self.recipe_at(point).in_full(places)
            found |= inputs
        return dict(sorted(found.items()))

    @property
    def content(self) -> dict[str, Any]:
        """What stands in its YAML, the recipe's models in full, so that it means the same from any folder."""
        budget = {"trials": self.trials, **({"minutes": self.minutes} if self.minutes else {})}
        full = {"folder": str(self.folder.resolve()), **budget, **self.identity}
        return {**full, "recipe": renamed(self.recipe, absolute)}

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides what a trial is and leaves, as the YAML has it; another budget may be asked for later."""
        written: dict[str, Any] = {name: getattr(self, name) for name in ("strategy", "seed", "limit", "run_dtype")}
        written |= {"loss": self.loss} if self.loss else {"tasks": list(self.tasks)}
        several = len(self.objectives) > 1
        written |= {"objectives": list(self.objectives)} if several else {"objective": self.objectives[0]}
        written |= {"prune": True} if self.prune else {}
        search = {axis.key: axis.written for axis in self.axes}
        return {"recipe": dict(self.recipe), "search": search, **written, "keep": self.keep}
