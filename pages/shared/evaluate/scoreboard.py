"""Scores of several models side by side: one run a model, so that a model scored before is not scored again."""

from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from nmerge_core.figures import style
from nmerge_core.figures.scores import bars, table
from nmerge_core.runs.folder import Run
from pages.shared.charts.charts import dark, show
from pages.shared.frame.older import older_run, reasons
from pages.shared.frame.page import empty_state
from pages.shared.frame.runs import latest_run, run_panel, start_all
from pages.shared.frame.scoring import Board, Scoring, Texts
from pages.shared.frame.tasks import task_name
from pages.shared.frame.text import verbatim


def scoreboard(models: Mapping[str, str], scoring: Scoring | Texts, key: str) -> Board | None:
    """Score models that were not yet, show how far that is, and return the scores that are there, or older ones.

    Args:
        models: Name → folder or Hub id, in the order to draw them.
        scoring: The tasks, and how much of them; or the texts.
        key: Of the button.

    Returns:
        What is there; None where no model has a score.
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
    return Board(list(there), scores, samples, [run.id for run in there.values()])


def draw_bars(board: Board, colours: Mapping[str, str], key: str) -> None:
    """The scores of models by task, with their intervals."""
    show(bars(board.scores, colours, board.names, base="base", dark=dark()), f"{key}_figure", board.scores, "scores")


def draw_table(board: Board, key: str) -> None:
    """Every metric of each model with its interval."""
    told = table(board.scores, board.names)
    right = {name: st.column_config.TextColumn(alignment="right") for name in told.columns[1:]}
    st.dataframe(told, hide_index=True, key=f"{key}_table", column_config=right)
    by = ", ".join(board.scores["interval"].dropna().unique())
    batches = board.scores.get("batch_used", pd.Series(dtype=float)).dropna()
    used = " to ".join(style.count(each) for each in sorted({*batches.agg(["min", "max"]).dropna()}))
    told = f" Batches of {used} texts." if used else ""
    st.caption(f"In brackets, and as whiskers: 95 % intervals ({by}).{told}")


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
