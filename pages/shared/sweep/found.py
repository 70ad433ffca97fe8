"""What a sweep has found so far: its trials, and what each of them scored, problem by problem."""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nmerge_core.comparison.mean_difference import ahead
from nmerge_core.comparison.paired import Interval
from nmerge_core.comparison.score_tables import losses_as_scores
from nmerge_core.files.kept_files import read_csv, reading
from nmerge_core.runs.folder import Run
from nmerge_core.search.plan import Sweep
from nmerge_core.search.presets import MODELS
from pages.shared.frame.scoring import read_kept, with_texts
from pages.shared.sweep.form import said

LOSSES = ("category", "text", "loss", "tokens", "run_dtype")
WALKED = 20  # trials behind the best that are compared with it


@dataclass(frozen=True)
class Found:
    """The trials of a sweep so far, a row each, those with an objective the best first, and the folder they are in."""

    plan: Sweep
    run: Run
    trials: pd.DataFrame
    folder: Path

    @property
    def keys(self) -> list[str]:
        """The searched keys."""
        return [axis.key for axis in self.plan.axes]

    @property
    def objectives(self) -> list[str]:
        """The columns that the sweep makes large."""
        return [name for name in self.trials if name == "objective" or name.startswith("objective_")]

    def of(self, number: int) -> Path:
        """The folder of a trial's recipe and scores."""
        return self.folder / "recipes" / str(number)


def read_found(run: Run, plan: Sweep) -> Found | None:
    """The trials so far; None where there is none with an objective yet."""
    folder = run.results if run.status().state == "done" else run.part
    file = folder / "trials.csv"
    if not file.exists():
        return None
    trials = read_csv(file, ("trial", *(axis.key for axis in plan.axes)))
    found = Found(plan, run, trials, folder)
    with reading(file):
        if MODELS in trials:
            trials[MODELS] = [said(json.loads(text)) for text in trials[MODELS]]
        mean = trials[found.objectives].mean(axis="columns", skipna=False)
    order = mean.sort_values(ascending=False, kind="stable").index
    return None if mean.isna().all() else Found(plan, run, trials.loc[order], folder)


def read_trial(found: Found, number: int, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The scores and samples of a trial, which pages call `name`."""
    folder, corpus = found.of(number), found.plan.loss
    if corpus is None:
        return read_kept(folder, name)
    scores, samples = losses_as_scores(read_csv(folder / "losses.csv", LOSSES).assign(model=name))
    return scores, with_texts(samples, corpus, found.run.inputs.get(corpus, ""))


@dataclass(frozen=True)
class Lead:
    """By how much the best trial is ahead of the `next` one, its 95 % interval, and how many are `within` the error.

    These are the trials after the best, in their order, before one that it is ahead of for sure; at most `WALKED`.
    """

    next: int
    difference: float
    interval: Interval
    within: int


def lead_of(found: Found) -> Lead | None:
    """Compare the best trial with those after it; None where it is alone, or they do not compare problem by problem."""
    best, *others = [int(each) for each in found.trials.loc[found.trials["objective"].notna(), "trial"]]
    first: tuple[float, Interval] | None = None
    within = 0
    for number in others[:WALKED]:
        tables = [read_trial(found, each, str(each)) for each in (best, number)]
        scores, samples = (pd.concat(parts, ignore_index=True) for parts in zip(*tables, strict=True))
        compared = ahead(scores, samples, str(best), str(number), found.plan.objectives[0])
        if compared is None:
            return None
        first = first or compared
        if compared[1].low > 0:
            break
        within += 1
    return first and Lead(others[0], *first, within)
