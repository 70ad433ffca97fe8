"""The loop of a sweep: take a trial, merge its recipe, score the merge, write it down; in the end, write the best."""

import math
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from nmerge_core.errors import InputError
from nmerge_core.files.kept_files import read_csv
from nmerge_core.merging.plan.kept import Kept, nothing_kept
from nmerge_core.progress import Progress, silent
from nmerge_core.search.merging import Merges
from nmerge_core.search.outcome import TRIALS, begin, is_there, publish, recipe_folder, wanted, weigh, write
from nmerge_core.search.plan import Sweep
from nmerge_core.search.scoring import Measured, Scoring, open_scoring
from nmerge_core.search.shared_trials import SharedTrials, Taken, turn
from nmerge_core.search.trials import best_first, text_of

_WAIT_SECONDS = 0.5  # between looks at what other processes do


def sweep(
    plan: Sweep,
    out: Path,
    *,
    device: str = "auto",
    run_code: bool = False,
    allow_task_code: bool = False,
    progress: Progress = silent,
    kept: Kept = nothing_kept,
) -> pd.DataFrame:
    """Do the trials of a sweep on its tasks or texts, as `run_trials` does.

    Raises:
        InputError: a task or a corpus cannot be loaded, or an objective weighs what is not among them.
    """
    scoring = open_scoring(plan, run_code=run_code, allow_task_code=allow_task_code)
    return run_trials(plan, out, scoring, device=device, progress=progress, kept=kept)


def run_trials(
    plan: Sweep,
    out: Path,
    scoring: Scoring,
    *,
    device: str = "auto",
    progress: Progress = silent,
    kept: Kept = nothing_kept,
) -> pd.DataFrame:
    """Do the trials of a sweep that are not done in `out` yet, and return the table of all.

    `out` gets journal.log (Optuna's), trials.csv (a row a trial), recipes/<number>/ (each trial's resolved recipe, with
    its scores.csv and samples.jsonl, or losses.csv), best.yaml (that of the best), sweep.yaml (what was asked for) and,
    in the end and as `keep` says, best/ or trials/<number>/ (the checkpoints). Several processes may be given the same
    `out`, also on several machines that share it: each does what no other has in hand, takes over what one that was
    lost has begun, and ends when all is done. Killed or interrupted, the same call goes on after the last trial that
    was finished, and a single process tries the same points as if it had never stopped.

    Raises:
        InputError: the models do not fit together, the first trial cannot be merged, or `out` is of another sweep.
    """
    merges = Merges(plan.recipe_at(plan.first), device, plan.run_dtype, kept)
    begin(out, plan)
    until = time.monotonic() + 60 * plan.minutes if plan.minutes else math.inf
    with SharedTrials(out, plan) as shared:
        while True:
            taken = shared.take(more=time.monotonic() < until)
            if taken is None and not shared.others_at_work:
                break
            if taken is None:
                progress("Waiting for other processes", len(shared.finished()), plan.trials or 0, "trials")
                time.sleep(_WAIT_SECONDS)
                continue
            _do(taken, plan, out, shared, merges, scoring, _telling(progress, taken.number, plan.trials))
            progress("Trials", len(shared.finished()), plan.trials or 0, "trials")
        with turn(out):
            publish(plan, out, shared)
        weigh(out, shared, last=True)
        kept_ones = wanted(plan, out, shared.finished())
        while not all(is_there(place, recipe) for place, recipe in kept_ones.items()):
            if shared.may_write():
                write(kept_ones, merges, progress)
                shared.written()
            else:
                progress("Waiting for another process to write checkpoints", 0, len(kept_ones), "checkpoints")
                time.sleep(_WAIT_SECONDS)
    return read_csv(out / TRIALS)


def _do(
    taken: Taken,
    plan: Sweep,
    out: Path,
    shared: SharedTrials,
    merges: Merges,
    scoring: Scoring,
    progress: Progress,
) -> None:
    """Do one trial, unless another process took it over meanwhile: then nothing of it stays.

    One that cannot be merged or scored is written down as failed, unless none before it has an objective: then most
    likely none can.
    """
    work = out / f".trial-{taken.number}-{secrets.token_hex(4)}"
    started, merging, failure = time.monotonic(), 0.0, ""
    measured: Measured | None = None
    with _removed(work):
        try:
            with _named(taken), merges.merged(plan.recipe_at(taken.point), work, progress) as language_model:
                merging = time.monotonic() - started
                asked = (lambda values: shared.hopeless(taken, values)) if plan.prune else None
                measured = scoring(language_model, progress, asked)
        except InputError as error:
            if not best_first(shared.finished()):
                raise
            failure = str(error)
            work.mkdir(parents=True, exist_ok=True)
        _finish(taken, measured, failure, plan, out, shared, work, time.monotonic() - started, merging)


def _finish(
    taken: Taken,
    measured: Measured | None,
    failure: str,
    plan: Sweep,
    out: Path,
    shared: SharedTrials,
    work: Path,
    seconds: float,
    merging: float,
) -> None:
    with turn(out):
        if not shared.owns(taken):
            return
        place = recipe_folder(out, taken.number)
        shutil.rmtree(place, ignore_errors=True)  # of whoever was killed before it was written down
        place.parent.mkdir(exist_ok=True)
        for name, text in (measured.files if measured else {}).items():
            (work / name).write_text(text, encoding="utf-8", errors="backslashreplace")
        work.rename(place)
        shared.finish(taken, measured, failure, seconds=seconds, merging=merging)
        publish(plan, out, shared)
    weigh(out, shared, last=False)


@contextmanager
def _removed(folder: Path) -> Iterator[None]:
    """Leave nothing at a path."""
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _named(taken: Taken) -> Iterator[None]:
    """Tell an InputError with its trial."""
    try:
        yield
    except InputError as error:
        values = ", ".join(f"{key} = {text_of(value)}" for key, value in taken.point.items())
        raise InputError(f"trial {taken.number} ({values}): {error}") from error


def _telling(progress: Progress, number: int, trials: int | None) -> Progress:
    of = f" of {trials}" if trials else ""

    def tell(stage: str, done: float, total: float, unit: str = "") -> None:
        progress(f"Trial {number}{of}: {stage}", done, total, unit)

    return tell
