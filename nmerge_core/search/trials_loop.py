"""The loop of a sweep: take a point, merge its recipe, score the merge, write the trial down, tell the strategy."""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import yaml

from nmerge_core.errors import InputError, shown
from nmerge_core.evaluation import Evaluator
from nmerge_core.loading import load_model
from nmerge_core.merging.pipeline import merge_opened
from nmerge_core.merging.plan.opened import open_recipe, reopen
from nmerge_core.merging.recipe.prepared import NEURONS_FOLDER
from nmerge_core.progress import Progress, silent
from nmerge_core.search.plan import Point, Sweep
from nmerge_core.search.strategies import STRATEGIES
from nmerge_core.search.trials import OBJECTIVE, Trial, append, read_rows, text_of
from nmerge_core.yaml_file import check_keys

_RECORD, _TRIALS, _BEST = "sweep.yaml", "trials.csv", "best.yaml"
_WORK = ".trial"  # where a trial's checkpoint lies while it is scored


@dataclass(frozen=True)
class Measured:
    """The scores of one checkpoint, by "task/metric", and the objective they make, which a sweep makes large."""

    scores: Mapping[str, float]
    objective: float


Measure = Callable[[Path, Progress], Measured]


def sweep(
    plan: Sweep,
    out: Path,
    *,
    device: str = "auto",
    run_code: bool = False,
    allow_task_code: bool = False,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Do the trials of a sweep on its tasks, as `run_trials` does.

    Raises:
        InputError: a task cannot be loaded, or the objective weighs a task that is not among them.
    """
    evaluator = Evaluator(plan.tasks, limit=plan.limit, run_code=run_code, allow_task_code=allow_task_code)
    check_keys(plan.objective or (), evaluator.names, "sweep, key 'objective'")

    def measure(checkpoint: Path, told: Progress) -> Measured:
        merged = replace(load_model(str(checkpoint), device, plan.run_dtype), label="merge")
        scores = evaluator.scored(merged, told).table
        named = {f"{row.task}/{row.metric}": float(row.value) for row in scores.itertuples()}
        return Measured(named, evaluator.objective(scores, plan.objective))

    return run_trials(plan, out, measure, device=device, progress=progress)


def run_trials(
    plan: Sweep, out: Path, measure: Measure, *, device: str = "auto", progress: Progress = silent
) -> pd.DataFrame:
    """Do the trials of a sweep that are not in `out` yet, and return the table of all.

    `out` gets trials.csv (a row a trial), best.yaml (the best trial's resolved recipe), sweep.yaml (what was asked for)
    and, as `keep` says, best/ or trials/<number>/ (the checkpoints). Killed or interrupted, the same call goes on after
    the last trial of trials.csv: the strategy is told the objectives that are there, so it proposes the same points as
    if it had never stopped. A trial's row comes last, so whatever a kill leaves half done is done again.

    Raises:
        InputError: the models do not fit together, a trial cannot be merged, or `out` is of another sweep.
    """
    strategy = STRATEGIES[plan.strategy](plan.axes, plan.seed)
    point = next(strategy)
    opened = open_recipe(plan.recipe_at(point), device)
    _begin(out, plan)
    rows = read_rows(out / _TRIALS)
    best = -math.inf
    for number in range(1, plan.trials + 1):
        if number <= len(rows):
            objective = _told(rows[number - 1], number, point, out)
        else:
            opened = reopen(opened, plan.recipe_at(point), device)
            told = _telling(progress, number, plan.trials)
            started = time.monotonic()
            with _work_folder(out, number, point) as merged:
                merge_opened(opened, merged, told)
                measured = measure(merged, told)
                objective = measured.objective
                _keep(plan, out, merged, number, better=objective > best)
            seconds = time.monotonic() - started
            append(out / _TRIALS, Trial(number, point, measured.scores, objective, seconds))
        best = max(best, objective) if objective == objective else best  # NaN is never the best
        progress("Trials", number, plan.trials, "trials")
        if number < plan.trials:
            point = strategy.send(objective)
    return pd.read_csv(out / _TRIALS)


def _begin(out: Path, plan: Sweep) -> None:
    """Make the folder, or check that the one that is there is of this very sweep."""
    record = {**plan.identity, "sources": plan.inputs}
    record = yaml.safe_load(yaml.safe_dump(record, sort_keys=False))  # as it will be read again
    file = out / _RECORD
    if not out.exists() or not any(out.iterdir()):
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=100), encoding="utf-8")
    elif not file.is_file():
        raise InputError(f"{out}: exists already; expected a new folder, or one that this sweep has begun")
    else:
        before = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        sources = before.get("sources") or {}
        changed = [name for name, content in record["sources"].items() if sources.get(name, content) != content]
        if changed:
            raise InputError(
                f"{out}: {', '.join(changed)} was changed since this sweep was begun, its trials are of what was there "
                "before; name another folder, or put back what was there"
            )
        for key, value in record.items():
            if before.get(key) != value:
                raise InputError(
                    f"{file}, key '{key}': this folder is of another sweep; expected {shown(value)}, found "
                    f"{shown(before.get(key))}; name another folder, or go on with what it was begun with"
                )


def _told(row: dict[str, str], number: int, point: Point, out: Path) -> float:
    """Return the objective of a trial that is in the table; raises InputError where it is another trial's row."""
    for key, value in point.items():
        if row.get(key) != text_of(value):
            raise InputError(
                f"{out / _TRIALS}, trial {number}: expected {key} = {text_of(value)}, found {row.get(key)}; this sweep "
                "has not written that table, take a new folder"
            )
    return float(row[OBJECTIVE])


@contextmanager
def _work_folder(out: Path, number: int, point: Point) -> Iterator[Path]:
    """Give a path for a trial's checkpoint, and leave nothing there; an InputError is told with its trial."""
    shutil.rmtree(out / _WORK, ignore_errors=True)
    try:
        yield out / _WORK / "merged"
    except InputError as error:
        values = ", ".join(f"{key} = {text_of(value)}" for key, value in point.items())
        raise InputError(f"trial {number} ({values}): {error}") from error
    finally:
        shutil.rmtree(out / _WORK, ignore_errors=True)


def _keep(plan: Sweep, out: Path, merged: Path, number: int, *, better: bool) -> None:
    """Keep of a trial what is to be kept."""
    if better:
        shutil.copyfile(merged / "nmerge_recipe.yaml", out / _BEST)
        if (merged / NEURONS_FOLDER).exists():  # the recipe names it
            shutil.rmtree(out / NEURONS_FOLDER, ignore_errors=True)
            shutil.copytree(merged / NEURONS_FOLDER, out / NEURONS_FOLDER)
    if plan.keep == "all" or (plan.keep == "best" and better):
        kept = out / ("best" if plan.keep == "best" else f"trials/{number}")
        shutil.rmtree(kept, ignore_errors=True)
        kept.parent.mkdir(exist_ok=True)
        merged.rename(kept)


def _telling(progress: Progress, number: int, trials: int) -> Progress:
    def tell(stage: str, done: float, total: float, unit: str = "") -> None:
        progress(f"Trial {number} of {trials}: {stage}", done, total, unit)

    return tell
