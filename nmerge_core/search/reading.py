"""Reading a sweep's YAML, and trying what it searches on its recipe, before anything is merged."""

from collections.abc import Mapping
from math import inf, prod
from os.path import exists, expanduser, isfile  # which raise of no name, where pathlib's do
from pathlib import Path
from typing import Any

from nmerge_core.cache import task_data
from nmerge_core.checkpoints.reference import found_from
from nmerge_core.corpus.corpus import whole_and_slice
from nmerge_core.errors import InputError, shown
from nmerge_core.files.yaml_file import check_keys, plain, read_mapping
from nmerge_core.merging.recipe.mergekit_recipe import renamed
from nmerge_core.merging.recipe.reading import Source, file_of, load_recipe, read_content
from nmerge_core.number_format import AUTO, RUN_DTYPES
from nmerge_core.parameters.values import Number
from nmerge_core.search.axis import read_axis
from nmerge_core.search.plan import Sweep, Weights

STRATEGIES = ("grid", "random", "tpe", "cma", "nsga2")
KEEP = ("best", "all", "none")
_TRIALS = 20  # unless said otherwise
_MOST = 100_000  # combinations of a grid, which are all queued at once

_DEFAULTS: dict[str, Any] = {"strategy": "grid", "trials": None, "minutes": None, "seed": 0, "tasks": None}
_DEFAULTS |= {"loss": None, "objective": None, "objectives": None, "prune": False, "limit": None}
_DEFAULTS |= {"run_dtype": AUTO, "keep": "best"}
_NEEDED = ("recipe", "search")
_KEYS = (*_NEEDED, *_DEFAULTS)
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
    if missing := [key for key in _NEEDED if key not in content]:
        raise InputError(f"{file}: the key '{missing[0]}' is missing")
    _check(file, content)
    recipe, folder = _recipe(file, content["recipe"])
    search, strategy, trials = content["search"], content["strategy"], content["trials"]
    loaded = load_recipe(recipe)
    methods = [loaded.method, *(step.method for step in loaded.then)]
    taken = [parameter for method in methods for parameter in method.parameters]
    whole = ["seed", *(p.name for p in taken if isinstance(p, Number) and p.whole)]
    axes = tuple(read_axis(str(key), given, whole=str(key).split(".")[-1] in whole) for key, given in search.items())
    if strategy == "grid":
        ranged = [axis.key for axis in axes if not axis.values]
        if ranged:
            expected = "lists of values for strategy: grid (or take random, tpe, cma or nsga2)"
            raise _wrong(file, "search", expected, ranged)
        trials = prod(len(axis.values) for axis in axes)
        if trials > _MOST:
            raise _wrong(file, "search", f"at most {_MOST:,} combinations (or take random, tpe, cma or nsga2)", trials)
    elif trials is None and content["minutes"] is None:
        trials = _TRIALS
    sweep = Sweep(
        recipe,
        folder,
        axes,
        strategy,
        trials,
        content["minutes"],
        content["seed"],
        tuple(_beside(file, task) for task in _list(content["tasks"] or [])),
        content["loss"] and _corpus(file, content["loss"]),
        _objectives(file, content),
        content["prune"],
        content["limit"],
        content["run_dtype"],
        content["keep"],
    )
    _try_values(sweep)
    return sweep


def _check(file: Path, content: Mapping[str, Any]) -> None:
    """Check every key alone, and those that do not go together; raises InputError."""
    search, strategy, tasks, keep = (content[key] for key in ("search", "strategy", "tasks", "keep"))
    objectives, numbers = content["objectives"], "a whole number from"
    named = isinstance(tasks, str) or (isinstance(tasks, list) and all(isinstance(task, str) for task in tasks))
    right = {
        "search": (isinstance(search, Mapping) and bool(search), "a path into the recipe and its values"),
        "strategy": (isinstance(strategy, str) and strategy in STRATEGIES, f"one of {', '.join(STRATEGIES)}"),
        "run_dtype": (content["run_dtype"] in RUN_DTYPES, f"one of {', '.join(RUN_DTYPES)}"),
        "keep": (keep in KEEP or _whole(keep, 1), f"one of {', '.join(KEEP)}, or how many of the best"),
        "trials": (content["trials"] is None or _whole(content["trials"], 1), f"{numbers} 1"),
        "minutes": (content["minutes"] is None or _positive(content["minutes"]), "a number above 0"),
        "seed": (_whole(content["seed"], 0), f"{numbers} 0"),
        "limit": (content["limit"] is None or _whole(content["limit"], 1), f"{numbers} 1"),
        "tasks": (
            bool(content["loss"]) if tasks is None else named and bool(tasks),
            "a list of tasks as `evaluate` takes them, or in their place `loss`, a corpus",
        ),
        "loss": (content["loss"] is None or (isinstance(content["loss"], str) and tasks is None), _LOSS),
        "objective": (content["objective"] is None or _weights(content["objective"]), "{task: weight above 0}"),
        "objectives": (
            objectives is None
            or (isinstance(objectives, list) and len(objectives) > 1 and all(map(_objective, objectives))),
            "a list of two or more, each a task or {task: weight above 0}",
        ),
        "prune": (isinstance(content["prune"], bool), "true or false"),
    }
    for key, (is_right, expected) in right.items():
        if not is_right:
            raise _wrong(file, key, expected, content[key])
    if objectives is not None:
        for key, expected in (("objective", "it or `objectives`"), ("prune", "no pruning with several objectives")):
            if content[key]:
                raise _wrong(file, key, expected, content[key])
        if strategy == "cma":
            raise _wrong(file, "strategy", "nsga2, tpe, random or grid with several objectives", strategy)


_LOSS = "a corpus whose held-out texts trials are scored on, in place of `tasks`"


def _objectives(file: Path, content: Mapping[str, Any]) -> tuple[Weights, ...]:
    several = content["objectives"] or [content["objective"]]
    named = [{each: 1.0} if isinstance(each, str) else each for each in several]
    return tuple(each and {_beside(file, name): weight for name, weight in each.items()} for each in named)


def _objective(given: Any) -> bool:
    return isinstance(given, str) or _weights(given)


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
    if not isinstance(given, str):
        raise _wrong(file, "recipe", "a recipe or the path of one", given)
    path = Path(expanduser(given))
    path = path if exists(path) else file.parent / given
    load_recipe(path)
    return read_content(path), path.parent


def _beside(file: Path, task: str) -> str:
    """Return a task as it is written, or the file of that name beside the sweep's; NAME=FILE too."""
    name, data = task_data(task)
    if data:
        return f"{name}={_beside(file, data)}"
    return str(path) if isfile(path := file.parent / task) and not exists(expanduser(task)) else task


def _corpus(file: Path, reference: str) -> str:
    whole, meant = whole_and_slice(reference)
    path = file.parent / whole
    return f"{path}{meant}" if exists(path) and not exists(expanduser(whole)) else reference


def _list(given: Any) -> list[str]:
    return [given] if isinstance(given, str) else given


def _wrong(file: Path, key: str, expected: str, found: Any) -> InputError:
    return InputError(f"{file}, key '{key}': expected {expected}, found {shown(found)}")


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < inf


def _weights(given: Any) -> bool:
    return isinstance(given, Mapping) and bool(given) and all(map(_positive, given.values()))
