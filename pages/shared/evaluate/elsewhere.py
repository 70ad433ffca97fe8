"""Scores of the same tasks that were made elsewhere, or otherwise: told of beside the board, and not in it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from nmerge_core.cache import cache_root
from nmerge_core.candidates import CandidateLog
from nmerge_core.checkpoints import labels
from nmerge_core.comparison.score_tables import primary, unlike
from nmerge_core.errors import InputError
from nmerge_core.family import Family
from nmerge_core.figures.knockout import INTACT
from nmerge_core.figures.scores import metric
from nmerge_core.merging.recipe.mergekit_recipe import named_models
from nmerge_core.runs.folder import Run, list_runs
from pages.shared.evaluate.leaderboard import draw_downloads
from pages.shared.frame.family import full
from pages.shared.frame.results import read_table
from pages.shared.frame.scoring import Board
from pages.shared.frame.tasks import task_name
from pages.shared.frame.text import shortened
from pages.shared.tuning.candidates import called

BEST = 3  # trials of a sweep
NOT_KEPT = "its problems were not kept one by one"
IN_A_SWEEP = "a trial, which its sweep compares"


@dataclass(frozen=True)
class Found:
    """A score that is not the board's: whose, of what, by what it was made, and why it is not compared."""

    model: str
    task: str
    metric: str
    value: float
    made: str
    otherwise: str
    problems: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def row(self) -> dict[str, Any]:
        """It as a line of a table."""
        known = metric(self.metric)
        ends = f" [{known.write(self.low)}, {known.write(self.high)}]" if self.low == self.low else ""
        problems = "as many as there are" if math.isnan(self.problems) else str(int(self.problems))
        line = {"model": self.model, "Task": f"{self.task} · {known.title}", "Score": known.write(self.value) + ends}
        return line | {"Problems": problems, "Scored by": self.made, "Not compared": self.otherwise}


def elsewhere(models: Mapping[str, str], family: Family, tasks: Sequence[str], board: Board | None) -> list[Found]:
    """Return what was scored elsewhere, or otherwise, on tasks of these names.

    Args:
        models: Name → folder or Hub id, of those that are looked at.
        family: Of which candidates and sweeps are looked at.
        tasks: The names of tasks.
        board: What is compared, where there is something.
    """
    shown = board.runs if board else ()
    names = {full(reference): name for name, reference in models.items()}
    found: list[Found] = []
    for run in list_runs(cache_root()):
        reader = _READERS.get(run.kind)
        if reader is not None and run.id not in shown and run.status().state == "done":
            with suppress(InputError):  # its scores are damaged, or of a version that wrote others
                found += reader(run, names, family, board)
    found += _candidates(family)
    return [each for each in found if each.task in tasks]


def _evaluated(run: Run, names: Mapping[str, str], family: Family, board: Board | None) -> Iterator[Found]:
    asked = [full(reference) for reference in run.parameters["models"]]
    if not names.keys() & {*asked}:
        return
    by_label = dict(zip(labels(run.parameters["models"]), asked, strict=True))
    for row in primary(read_table(run, "scores.csv")).to_dict("records"):
        if (name := names.get(by_label.get(str(row["model"]), ""))) is not None:
            score = (name, str(row["task"]), row["metric"], row["value"], f"Evaluate: {run.title}")
            differs = _unlike(row, name, board) or "a run of its own, by the same settings"
            yield Found(*score, differs, row["samples"], row["low"], row["high"])


def _unlike(row: Mapping[str, Any], name: str, board: Board | None) -> str:
    if board is None:
        return "nothing was scored as chosen"
    own = board.scores[(board.scores["task"].astype(str) == str(row["task"])) & (board.scores["model"] == name)]
    return unlike(row, own.iloc[0].to_dict()) if len(own) else "not scored as chosen"


def _knocked_out(run: Run, names: Mapping[str, str], family: Family, board: Board | None) -> Iterator[Found]:
    name = names.get(full(run.parameters["model"]))
    if name is None or not run.parameters.get("task"):
        return
    table = read_table(run, "knockout.csv")
    intact = table[table["group"] == INTACT] if INTACT in set(table["group"]) else table[table["proportion"] == 0]
    for row in intact.drop_duplicates("metric").head(1).to_dict("records"):
        problems = run.parameters["limit"] or math.nan
        made = f"Knock-out, intact: {run.title}"
        yield Found(name, task_name(run.parameters["task"]), row["metric"], row["value"], made, NOT_KEPT, problems)


def _swept(run: Run, names: Mapping[str, str], family: Family, board: Board | None) -> Iterator[Found]:
    sweep = run.parameters["sweep"]
    if not {full(each) for each in named_models(sweep["recipe"])} <= {full(each) for each in _references(family)}:
        return
    trials = read_table(run, "trials.csv")
    if "objective" not in trials:  # several, of which none is the best
        return
    for trial in trials.dropna(subset=["objective"]).nlargest(BEST, "objective").to_dict("records"):
        for column in (each for each in trials if "/" in each):
            task, _, named = column.partition("/")
            model, made = f"trial {trial['trial']}", f"Sweep: {run.title}"
            yield Found(model, task, named, trial[column], made, IN_A_SWEEP, sweep.get("limit") or math.nan)


_READERS = {"evaluate": _evaluated, "knockout": _knocked_out, "sweep": _swept}


def _candidates(family: Family) -> Iterator[Found]:
    for each in CandidateLog(cache_root(), family.name).all():
        model = f"#{each.number} {shortened(called(each, family), 60)}"
        for title, score in each.scores.items():
            ends = score["low"], score["high"]
            task = title.rpartition(" · ")[0]
            made = "Merge: quick score"
            yield Found(model, task, score["metric"], score["value"], made, NOT_KEPT, score["problems"], *ends)


def _references(family: Family) -> list[str]:
    return [member.reference for member in family.members]


def draw_elsewhere(
    models: Mapping[str, str], family: Family, tasks: Sequence[str], board: Board | None = None, words: str = ""
) -> None:
    """A table of scores that were made elsewhere on tasks, or on those of a board, as far as words of them say."""
    named = tasks if board is None else [*board.scores["task"].astype(str).unique()]
    wanted = words.casefold().split()
    found = elsewhere(models, family, named, board)
    told = {each: f"{each.model} {each.made}".casefold() for each in found}
    shown = [each for each in found if each.model in models or all(word in told[each] for word in wanted)]
    if not shown:
        return
    with st.expander(f"Scored elsewhere, or otherwise: {len(shown)}", icon=":material/history:"):
        st.caption(
            "The same tasks, with other problems or settings, or as another page scored them: for orientation. They "
            "are in no mean, figure or comparison of this page."
        )
        table = pd.DataFrame([each.row for each in shown]).set_index("model")
        st.dataframe(table, key="evaluate_elsewhere", height=35 * min(12, len(table) + 1) + 3)
        draw_downloads(table, "evaluate_elsewhere", "scored-elsewhere")
