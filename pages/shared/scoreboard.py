"""Scores of several models side by side: one run a model, so that a model scored before is not scored again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import streamlit as st

from nmerge_core.errors import InputError
from nmerge_core.figures.scores import bars, table
from nmerge_core.held_out import held_out
from nmerge_core.kept_files import reading
from nmerge_core.notebook import literal
from nmerge_core.runs.folder import Run
from nmerge_core.score_tables import losses_as_scores, read_samples, read_scores
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
    """What models are scored on; `conditions` are parameters of the run kind `evaluate` that are no defaults."""

    tasks: Sequence[str]
    limit: int | None
    run_code: bool
    allow_task_code: bool = False
    conditions: Mapping[str, Any] = field(default_factory=dict)

    kind: ClassVar[str] = "evaluate"
    title: ClassVar[str] = "Scores"

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
    def wanted(self) -> bool:
        """Whether there is anything to score on."""
        return bool(self.tasks)

    @property
    def _given(self) -> dict[str, Any]:
        """What is no default, but for the tasks."""
        limit = {"limit": self.limit} if self.limit else {}
        switches = {"run_code": self.run_code, "allow_task_code": self.allow_task_code}
        return limit | dict(self.conditions) | {name: True for name, on in switches.items() if on}

    def parameters(self, reference: str) -> dict[str, Any]:
        """The parameters of the run that scores one model."""
        return {"models": [reference], "tasks": list(self.tasks), "limit": self.limit, **self._given}

    def told_time(self, asked: Sequence[Mapping[str, Any]]) -> str:
        """How long runs with such parameters take, as a sentence."""
        return told_scoring(asked)

    def arguments(self) -> list[str]:
        """The options of the command that scores models on what is allowed."""
        options = [
            [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
            for name, value in self._given.items()
        ]
        return ["--tasks", ",".join(self.allowed.tasks), *(text for option in options for text in option)]

    def call(self, models: str) -> str:
        """The Python that scores `models`, an expression, on what is allowed."""
        settings = [f"tasks={literal(self.allowed.tasks)}", *(f"{n}={literal(v)}" for n, v in self._given.items())]
        return f"nm.evaluate({models}, {', '.join(settings)})"

    def read(self, run: Run, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The scores and samples of a finished run of one model, which pages call `name`."""
        with reading(run.results / "scores.csv"):
            modified = (run.results / "scores.csv").stat().st_mtime_ns
        scores, samples = _read(str(run.results), modified)
        return scores.assign(model=name), samples.assign(model=name)


@dataclass(frozen=True)
class Texts:
    """The held-out texts of a corpus, whose loss models are judged by where there are no tasks."""

    corpus: str
    conditions: Mapping[str, Any] = field(default_factory=dict)

    kind: ClassVar[str] = "loss"
    title: ClassVar[str] = "Loss"
    left_out: ClassVar[Mapping[str, str]] = {}

    @property
    def allowed(self) -> "Texts":
        """The same: texts run nothing."""
        return self

    @property
    def wanted(self) -> bool:
        """Whether there is anything to score on."""
        return bool(self.corpus)

    def parameters(self, reference: str) -> dict[str, Any]:
        """The parameters of the run that measures one model."""
        return {"models": [reference], "corpus": self.corpus, **self.conditions}

    def told_time(self, asked: Sequence[Mapping[str, Any]]) -> str:
        """How long runs with such parameters take, as a sentence."""
        return "Each text is read once."

    def arguments(self) -> list[str]:
        """The options of the command that measures models."""
        options = [[f"--{name.replace('_', '-')}", str(value)] for name, value in self.conditions.items()]
        return ["--loss", self.corpus, *(text for option in options for text in option)]

    def call(self, models: str) -> str:
        """The Python that measures `models`, an expression."""
        given = "".join(f", {name}={literal(value)}" for name, value in self.conditions.items())
        return f"nm.loss({models}, {literal(self.corpus)}{given})"

    def read(self, run: Run, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The losses of a finished run of one model, called `name`, as scores, and as samples with their texts."""
        scores, samples = losses_as_scores(read_table(run, "losses.csv", [name]))
        texts = _held_out(self.corpus, run.inputs.get(run.parameters["corpus"], ""))
        prompts = [texts.get((task, id), "") for task, id in zip(samples["task"], samples["id"], strict=True)]
        return scores, samples.assign(prompt=prompts)


@st.cache_data(max_entries=64, show_spinner=False)
def _read(folder: str, modified: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read what a run wrote; `modified` is there to make the cache forget rewritten files."""
    return read_scores(Path(folder) / "scores.csv"), read_samples(Path(folder) / "samples.jsonl")


@st.cache_data(max_entries=4, show_spinner=False)
def _held_out(corpus: str, content: str) -> dict[tuple[str, int], str]:
    """The held-out texts of a corpus by category and place; none where it is there no more."""
    try:
        found = held_out(corpus).corpus
    except InputError:
        return {}
    own = {each: [text.text for text in found.exemplars if text.category == each] for each in found.categories}
    return {(category, place): text for category, texts in own.items() for place, text in enumerate(texts)}


@dataclass(frozen=True)
class Board:
    """The scores and samples of the models that have some, in the order of `names`."""

    names: list[str]
    scores: pd.DataFrame
    samples: pd.DataFrame


def scoreboard(
    models: Mapping[str, str], scoring: Scoring | Texts, colours: Mapping[str, str], key: str
) -> Board | None:
    """Score models that were not yet, show how far that is, and draw the scores that are there, or older ones.

    Args:
        models: Name → folder or Hub id, in the order to draw them.
        scoring: The tasks, and how much of them; or the texts.
        colours: The colour of each name.
        key: Of the button; the figure derives its own from it.

    Returns:
        What was drawn; None where no model has a score.
    """
    if scoring.left_out:
        names = "; ".join(f"{task_name(task)}, which would run {what}" for task, what in scoring.left_out.items())
        st.caption(f"Left out: {verbatim(names)}. Switch that on above.")
    scoring = scoring.allowed
    if not scoring.wanted:
        return None
    asked = {name: scoring.parameters(reference) for name, reference in models.items()}
    runs = {name: latest_run(scoring.kind, asked[name]) for name in models}
    states = {name: run.status().state if run else "missing" for name, run in runs.items()}
    scored = {name: run for name, run in runs.items() if run and states[name] == "done"}
    active = [name for name in models if states[name] in ("queued", "running")]
    rest = [name for name in models if name not in (*scored, *active)]
    earlier = {name: older_run(scoring.kind, asked[name]) for name in models if name not in scored}
    older = {name: run for name, run in earlier.items() if run is not None}
    if rest:
        told = scoring.told_time([asked[name] for name in rest])
        text = f"{reasons(rest, older, asked, 'Not scored yet')} {told}"
        if empty_state(text, f"Score {verbatim(_counted(rest))}", key):
            start_all(scoring.kind, {f"{scoring.title} of {name}": asked[name] for name in rest})
    _panels(runs, states, active, rest)
    there = {name: run for name in models if (run := scored.get(name) or older.get(name))}
    if not there:
        return None
    found = [scoring.read(run, name) for name, run in there.items()]
    scores, samples = (pd.concat(parts, ignore_index=True) for parts in zip(*found, strict=True))
    show(bars(scores, colours, list(there), base="base", dark=dark()), f"{key}_figure", scores, "scores")
    return Board(list(there), scores, samples)


def draw_table(board: Board, key: str) -> None:
    """Every metric of each model with its interval."""
    told = table(board.scores, board.names)
    right = {name: st.column_config.TextColumn(alignment="right") for name in told.columns[1:]}
    st.dataframe(told, hide_index=True, key=f"{key}_table", column_config=right)
    by = ", ".join(board.scores["interval"].dropna().unique())
    st.caption(f"In brackets, and as whiskers: 95 % intervals ({by}).")


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


def _counted(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} models"
