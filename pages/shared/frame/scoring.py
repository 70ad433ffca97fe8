"""What models are scored on, tasks or held-out texts: the run that does it, its command and Python, what it left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import streamlit as st

from nmerge_core.comparison.score_tables import losses_as_scores, read_samples, read_scores
from nmerge_core.corpus.held_out import held_out
from nmerge_core.errors import InputError
from nmerge_core.files.kept_files import reading
from nmerge_core.notebook import literal
from nmerge_core.runs.folder import Run
from pages.shared.frame.estimates import told_scoring, told_time
from pages.shared.frame.results import read_table
from pages.shared.frame.tasks import has_own_code, runs_code


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
        return read_kept(run.results, name)


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
        return f"Each text is read once{told_time(self.kind, asked)}."

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
        return scores, with_texts(samples, self.corpus, run.inputs.get(run.parameters["corpus"], ""))


def read_kept(folder: Path, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The scores and samples that are kept in a folder, of one model, which pages call `name`."""
    with reading(folder / "scores.csv"):
        modified = (folder / "scores.csv").stat().st_mtime_ns
    scores, samples = _read(str(folder), modified)
    return scores.assign(model=name), samples.assign(model=name)


def with_texts(samples: pd.DataFrame, corpus: str, content: str) -> pd.DataFrame:
    """The same samples with the held-out texts of a corpus that they are; `content` is its fingerprint."""
    texts = _held_out(corpus, content)
    prompts = [texts.get((task, id), "") for task, id in zip(samples["task"], samples["id"], strict=True)]
    return samples.assign(prompt=prompts)


@st.cache_data(max_entries=64, show_spinner=False)
def _read(folder: str, modified: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read what was written; `modified` is there to make the cache forget rewritten files."""
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
    """The scores and samples of the models that have some, in the order of `names`, and the ids of their runs."""

    names: list[str]
    scores: pd.DataFrame
    samples: pd.DataFrame
    runs: Sequence[str] = ()

    def only(self, names: Sequence[str], tasks: Sequence[str]) -> "Board":
        """Some of the models, in this order, and some of the tasks; all where none are named."""
        scores, samples = (
            frame[frame["model"].isin(names) & (frame["task"].astype(str).isin(tasks) | (not tasks))]
            for frame in (self.scores, self.samples)
        )
        return Board([name for name in names if name in self.names], scores, samples, self.runs)
