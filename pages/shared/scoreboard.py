"""Scores of several models side by side: one run a model, so that a model scored before is not scored again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import streamlit as st

from nmerge_core.figures.scores import bars, table
from nmerge_core.notebook import literal
from nmerge_core.runs.folder import Run
from pages.shared.charts import dark, show
from pages.shared.estimates import told_scoring
from pages.shared.older import older_run, reasons
from pages.shared.page import empty_state
from pages.shared.results import read_table
from pages.shared.runs import latest_run, run_panel, start_all
from pages.shared.tasks import has_own_code, runs_code, task_name
from pages.shared.text import verbatim


@dataclass(frozen=True)
class Scoring:
    """What models are scored on."""

    tasks: Sequence[str]
    limit: int | None
    run_code: bool
    allow_task_code: bool = False

    @property
    def left_out(self) -> dict[str, str]:
        """The tasks that would run what is not allowed, and what that is."""
        ours = {} if self.allow_task_code else {task: "code of its own" for task in self.tasks if has_own_code(task)}
        return ours | (
            {} if self.run_code else {task: "what the models write" for task in self.tasks if runs_code(task)}
        )

    @property
    def allowed(self) -> "Scoring":
        """The same without the tasks that are left out."""
        left_out = self.left_out
        return replace(self, tasks=[task for task in self.tasks if task not in left_out])

    @property
    def _given(self) -> dict[str, bool]:
        """The switches that are on."""
        switches = {"run_code": self.run_code, "allow_task_code": self.allow_task_code}
        return {name: True for name, on in switches.items() if on}

    def parameters(self, reference: str) -> dict[str, Any]:
        """The parameters of the run that scores one model."""
        return {"models": [reference], "tasks": list(self.tasks), "limit": self.limit, **self._given}

    def arguments(self) -> list[str]:
        """The options of the command that scores models on what is allowed."""
        limit = ["--limit", str(self.limit)] if self.limit else []
        switches = [f"--{name.replace('_', '-')}" for name in self._given]
        return ["--tasks", ",".join(self.allowed.tasks), *limit, *switches]

    def call(self, models: str) -> str:
        """The Python that scores `models`, an expression, on what is allowed."""
        limit = [f"limit={self.limit}"] if self.limit else []
        settings = [f"tasks={literal(self.allowed.tasks)}", *limit, *(f"{name}=True" for name in self._given)]
        return f"nm.evaluate({models}, {', '.join(settings)})"


def scoreboard(models: Mapping[str, str], scoring: Scoring, colours: Mapping[str, str], key: str) -> None:
    """Score models that were not yet, show how far that is, and draw the scores that are there, or older ones.

    Args:
        models: Name → folder or Hub id, in the order to draw them.
        scoring: The tasks, and how much of them.
        colours: The colour of each name.
        key: Of the button; the figure and the table derive theirs from it.
    """
    if scoring.left_out:
        names = "; ".join(f"{task_name(task)}, which would run {what}" for task, what in scoring.left_out.items())
        st.caption(f"Left out: {verbatim(names)}. Switch that on above.")
    scoring = scoring.allowed
    if not scoring.tasks:
        return
    asked = {name: scoring.parameters(reference) for name, reference in models.items()}
    runs = {name: latest_run("evaluate", asked[name]) for name in models}
    states = {name: run.status().state if run else "missing" for name, run in runs.items()}
    scored = {name: run for name, run in runs.items() if run and states[name] == "done"}
    active = [name for name in models if states[name] in ("queued", "running")]
    rest = [name for name in models if name not in (*scored, *active)]
    earlier = {name: older_run("evaluate", asked[name]) for name in models if name not in scored}
    older = {name: run for name, run in earlier.items() if run is not None}
    if rest:
        text = f"{reasons(rest, older, asked, 'Not scored yet')} {told_scoring([asked[name] for name in rest])}"
        if empty_state(text, f"Score {verbatim(_counted(rest))}", key):
            start_all("evaluate", {f"Scores of {name}": asked[name] for name in rest})
    _panels(runs, states, active, rest)
    there = {name: run for name in models if (run := scored.get(name) or older.get(name))}
    if there:
        frames = [read_table(run, "scores.csv", [name]) for name, run in there.items()]
        _draw(pd.concat(frames, ignore_index=True), list(there), colours, key)


def _panels(
    runs: Mapping[str, Run | None], states: Mapping[str, str], active: Sequence[str], rest: Sequence[str]
) -> None:
    """The run that is going (or the first that waits), how many wait behind it, and those that failed."""
    going = sorted(active, key=lambda name: states[name] != "running")
    for name in [*going[:1], *rest]:
        if (run := runs[name]) is not None:
            run_panel(run)
    if len(going) > 1:
        st.caption(f"Then {verbatim(', '.join(going[1:]))}.")


def _draw(scores: pd.DataFrame, names: Sequence[str], colours: Mapping[str, str], key: str) -> None:
    figure = bars(scores, colours, names, base="base", dark=dark())
    show(figure, f"{key}_figure", scores, "scores")
    told = table(scores, names)
    right = {name: st.column_config.TextColumn(alignment="right") for name in told.columns[1:]}
    st.dataframe(told, hide_index=True, key=f"{key}_table", column_config=right)
    st.caption("± and whiskers: 95 % confidence interval over the problems.")


def _counted(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} models"
