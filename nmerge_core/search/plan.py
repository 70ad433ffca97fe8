"""What a sweep's YAML asks for, checked against the recipe it searches before anything is merged."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from math import prod
from os.path import exists, expanduser, isfile  # which raise of no name, where pathlib's do
from pathlib import Path
from typing import Any

from nmerge_core.cache import cache_root
from nmerge_core.checkpoints import absolute
from nmerge_core.checkpoints.reference import found_from
from nmerge_core.errors import InputError, shown
from nmerge_core.inputs import Places
from nmerge_core.merging.recipe.mergekit_recipe import renamed
from nmerge_core.merging.recipe.reading import Source, file_of, load_recipe, read_content
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.number_format import AUTO, RUN_DTYPES
from nmerge_core.parameters import Number
from nmerge_core.search.axis import Axis, read_axis
from nmerge_core.search.strategies import STRATEGIES
from nmerge_core.yaml_file import check_keys, plain, read_mapping

KEEP = ("best", "all", "none")
Point = Mapping[str, Any]  # the value of each searched key


@dataclass(frozen=True)
class Sweep:
    """A checked sweep; `recipe` is as it was written, `folder` that of the file it came from.

    `objective` holds the weight of each task's primary metric, or None for their mean; `keep` says which merged
    checkpoints stay; `trials` is the number of them, whatever the strategy.
    """

    recipe: Mapping[str, Any]
    folder: Path
    axes: tuple[Axis, ...]
    strategy: str
    trials: int
    seed: int
    tasks: tuple[str, ...]
    objective: Mapping[str, float] | None
    limit: int | None
    run_dtype: str
    keep: str

    def recipe_at(self, point: Point) -> Recipe:
        """Return the recipe of one trial; raises InputError where a value does not fit it."""
        return replace(load_recipe(self.content_at(point)), folder=self.folder)

    def content_at(self, point: Point) -> dict[str, Any]:
        """Return what stands in the recipe of one trial."""
        content = deepcopy(dict(self.recipe))
        for axis in self.axes:
            axis.put(content, point[axis.key])
        return content

    def points_of(self, axis: Axis) -> list[Point]:
        """Return a point for every value of an axis, or for both ends of its range, the other axes at their first."""
        first = {other.key: other.at(0) for other in self.axes}
        return [{**first, axis.key: value} for value in axis.values or (axis.at(0), axis.at(1))]

    @property
    def inputs(self) -> dict[str, str]:
        """The fingerprint of all that any trial reads, by its name: models, corpora, tasks and their data.

        Raises:
            InputError: one of them is not there, or cannot be read.
        """
        places = Places(cache_root(), self.folder)
        found = dict(map(places.task, self.tasks))
        for point in (point for axis in self.axes for point in self.points_of(axis)):
            _, inputs = self.recipe_at(point).in_full(places)
            found |= inputs
        return dict(sorted(found.items()))

    @property
    def content(self) -> dict[str, Any]:
        """What stands in its YAML, the recipe's models in full, so that it means the same from any folder."""
        full = {"folder": str(self.folder.resolve()), "trials": self.trials, **self.identity}
        return {**full, "recipe": renamed(self.recipe, absolute), "tasks": list(self.tasks)}

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides what a trial is and leaves, as the YAML has it; more `trials` may be asked for later."""
        names = ("strategy", "seed", "tasks", "objective", "limit", "run_dtype", "keep")
        written = {name: getattr(self, name) for name in names}
        return {"recipe": dict(self.recipe), "search": {axis.key: axis.written for axis in self.axes}, **written}


_DEFAULTS: dict[str, Any] = {"strategy": "grid", "trials": 20, "seed": 0, "objective": None, "limit": None}
_DEFAULTS |= {"run_dtype": AUTO, "keep": "best"}
_KEYS = ("recipe", "search", "tasks", *_DEFAULTS)
_FOLDER = "folder"  # of a sweep that is no file: where its relative paths start


def load_sweep(source: Source) -> Sweep:
    """Read a sweep from a YAML file, YAML text or a mapping, and try its recipe with the values of every searched key.

    Raises:
        InputError: not YAML, an unknown key (the nearest is named), a value out of range, or a searched key that the
            recipe does not know or that changes nothing.
    """
    file = file_of(source)
    given = plain(source) if isinstance(source, Mapping) else read_mapping(file or str(source), _KEYS, "sweep")
    if file is None:
        file = Path(given.pop(_FOLDER, ".")) / "sweep"
    content = {**_DEFAULTS, **given}
    check_keys(content, _KEYS, str(file))
    if missing := [key for key in _KEYS if key not in content]:
        raise InputError(f"{file}: the key '{missing[0]}' is missing")
    recipe, folder = _recipe(file, content["recipe"])
    search = content["search"]
    if not isinstance(search, Mapping) or not search:
        raise _wrong(file, "search", "a path into the recipe and its values", search)
    whole = ["seed", *(p.name for p in load_recipe(recipe).method.parameters if isinstance(p, Number) and p.whole)]
    axes = tuple(read_axis(str(key), given, whole=str(key).split(".")[-1] in whole) for key, given in search.items())
    strategy, keep, tasks, objective = (content[key] for key in ("strategy", "keep", "tasks", "objective"))
    run_dtype = content["run_dtype"]
    _check(
        isinstance(strategy, str) and strategy in STRATEGIES,
        file,
        "strategy",
        f"one of {', '.join(STRATEGIES)}",
        strategy,
    )
    _check(run_dtype in RUN_DTYPES, file, "run_dtype", f"one of {', '.join(RUN_DTYPES)}", run_dtype)
    _check(keep in KEEP, file, "keep", f"one of {', '.join(KEEP)}", keep)
    _check(_whole(content["trials"], 1), file, "trials", "a whole number from 1", content["trials"])
    _check(_whole(content["seed"], 0), file, "seed", "a whole number from 0", content["seed"])
    limit = content["limit"]
    _check(limit is None or _whole(limit, 1), file, "limit", "a whole number from 1", limit)
    tasks = [tasks] if isinstance(tasks, str) else tasks
    named = isinstance(tasks, list) and tasks and all(isinstance(task, str) for task in tasks)
    _check(named, file, "tasks", "a list of tasks as `evaluate` takes them", tasks)
    _check(objective is None or _weights(objective), file, "objective", "{task: weight above 0}", objective)
    if strategy == "grid":
        ranged = [axis.key for axis in axes if not axis.values]
        _check(not ranged, file, "search", "lists of values for strategy: grid (or take random or cma)", ranged)
    trials = prod(len(axis.values) for axis in axes) if strategy == "grid" else content["trials"]
    found = [
        str(path) if isfile(path := file.parent / task) and not exists(expanduser(task)) else task for task in tasks
    ]
    seed = content["seed"]
    sweep = Sweep(recipe, folder, axes, strategy, trials, seed, tuple(found), objective, limit, run_dtype, keep)
    _try_values(sweep)
    return sweep


def _try_values(sweep: Sweep) -> None:
    """Check every value of every key, or both ends of its range, the others at their first."""
    for axis in sweep.axes:
        points = sweep.points_of(axis)
        recipes = {sweep.recipe_at(point).yaml for point in points}
        if len(recipes) == 1 < len(points):
            first, last = points[0][axis.key], points[-1][axis.key]
            raise InputError(
                f"sweep, search key '{axis.key}': {first} and {last} make the same recipe; is it set beside "
                "every model? That goes before the shared one, search models[0].parameters… there"
            )


def _recipe(file: Path, given: Any) -> tuple[Mapping[str, Any], Path]:
    """Return a recipe, inline or of a file beside the sweep's, as it was written, and the folder it counts from."""
    if isinstance(given, Mapping) or (isinstance(given, str) and "\n" in given):
        load_recipe(given)
        return renamed(read_content(given), lambda name: found_from(name, file.parent)), file.parent
    _check(isinstance(given, str), file, "recipe", "a recipe or the path of one", given)
    path = Path(expanduser(given))
    path = path if exists(path) else file.parent / given
    load_recipe(path)
    return read_content(path), path.parent


def _check(right: Any, file: Path, key: str, expected: str, found: Any) -> None:
    if not right:
        raise _wrong(file, key, expected, found)


def _wrong(file: Path, key: str, expected: str, found: Any) -> InputError:
    return InputError(f"{file}, key '{key}': expected {expected}, found {shown(found)}")


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _weights(given: Any) -> bool:
    return (
        isinstance(given, Mapping)
        and bool(given)
        and all(
            isinstance(weight, int | float) and not isinstance(weight, bool) and 0 < weight < float("inf")
            for weight in given.values()
        )
    )
