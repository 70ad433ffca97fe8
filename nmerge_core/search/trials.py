"""A finished trial, and trials.csv: a row for each, for people and for what reads tables."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TRIAL, STATE, OBJECTIVE, SECONDS, MERGING = "trial", "state", "objective", "seconds", "merging"
FAILURE = "failure"  # a column where a trial failed
DONE, PRUNED, FAILED = "done", "pruned", "failed"


@dataclass(frozen=True)
class Trial:
    """A finished trial: its number from 1, the searched values, its scores by "task/metric", and its objectives.

    One that was `pruned`, or failed for what `failure` says, has neither scores nor objectives. `seconds` are of all of
    it, `merging` of the merge alone.
    """

    number: int
    point: Mapping[str, Any]
    scores: Mapping[str, float]
    objectives: Sequence[float]
    pruned: bool
    seconds: float
    merging: float
    failure: str = ""

    @property
    def state(self) -> str:
        """How it ended."""
        return FAILED if self.failure else PRUNED if self.pruned else DONE

    @property
    def value(self) -> float:
        """The mean of its objectives, by which trials are ordered; −∞ where it is none, or no number."""
        value = math.fsum(self.objectives) / len(self.objectives) if self.objectives else math.nan
        return value if value == value else -math.inf


def best_first(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that have a value, the best first; of equals the earlier."""
    return sorted((each for each in trials if each.value > -math.inf), key=lambda each: (-each.value, each.number))


def objective_columns(count: int) -> list[str]:
    """Return what the objectives are called in the table."""
    return [OBJECTIVE] if count == 1 else [f"{OBJECTIVE}_{number}" for number in range(1, count + 1)]


def table(trials: Sequence[Trial], objectives: int) -> str:
    """Write trials as CSV, in order of their numbers; numbers in full, so that reading gives the same bits."""
    trials = sorted(trials, key=lambda trial: trial.number)
    scores = list(dict.fromkeys(name for trial in trials for name in trial.scores))
    names = objective_columns(objectives)
    points = list(trials[0].point) if trials else []
    text = io.StringIO(newline="")
    last = (*names, STATE, SECONDS, MERGING, *[FAILURE] * any(trial.failure for trial in trials))
    writer = csv.DictWriter(text, [TRIAL, *points, *scores, *last], restval="", lineterminator="\n")
    writer.writeheader()
    for trial in trials:
        row = {TRIAL: str(trial.number), STATE: trial.state} | ({FAILURE: trial.failure} if trial.failure else {})
        row |= {key: text_of(value) for key, value in trial.point.items()}
        row |= {name: repr(value) for name, value in trial.scores.items()}
        row |= {name: repr(value) for name, value in zip(names, trial.objectives, strict=False)}
        writer.writerow(row | {SECONDS: f"{trial.seconds:.3f}", MERGING: f"{trial.merging:.3f}"})
    return text.getvalue()


def importance_table(shares: Mapping[str, float]) -> str:
    """Write what each key makes of the trials' differences as CSV."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([("key", "importance"), *shares.items()])
    return text.getvalue()


def text_of(value: Any) -> str:
    """Write a searched value into a cell: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
