"""Runs: everything that was started, how far it is, and what came of it."""

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import streamlit as st

from nmerge_core.cache import cache_root
from nmerge_core.errors import InputError
from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.notebook import Step
from nmerge_core.runs.folder import STATES, Run, Status, delete, list_runs
from pages.shared.frame.family import family_of
from pages.shared.frame.page import RESULTS, begin, empty_state, how_computed, result_link
from pages.shared.frame.runs import run_line, run_panel, took
from pages.shared.frame.settings import KEPT
from pages.shared.frame.text import verbatim
from pages.shared.kept.on_the_way import draw_measured

LISTED_FILES = 12
ROWS = 14  # of the table that are seen at once
SHOWN = 5  # runs that are shown in full at once
OPEN_STATES = ("running", "queued")  # their panels are shown without being asked for


def described(runs: Sequence[Run], chosen: Family) -> pd.DataFrame:
    """A row per run, newest first: what it is, whose, how far, and what it takes on the disk."""
    states = [run.status() for run in runs]
    return pd.DataFrame(
        {
            "id": [run.id for run in runs],
            "state": [status.state for status in states],
            "kind": [run.kind for run in runs],
            "run": [run.title for run in runs],
            "family": [family_of(run, chosen).name for run in runs],
            "started": [pd.Timestamp(run.created, unit="s", tz="UTC") for run in runs],
            "took": [took(status) or "–" for status in states],
            "disk": [on_disk(str(run.folder), status.updated) for run, status in zip(runs, states, strict=True)],
        }
    )


@st.cache_data(max_entries=4096, show_spinner=False)
def on_disk(folder: str, updated: float) -> int:
    """Bytes of a run's files; `updated` is there to make the cache forget a run that went on."""
    return sum(os.path.getsize(path) for path in Path(folder).rglob("*") if path.is_file())


def filtered(table: pd.DataFrame) -> pd.Series:
    """Draw the filters; which rows are left by them."""
    left = pd.Series(True, index=table.index)
    boxes = {"state": "States", "kind": "Kinds", "family": "Families"}
    for column, (name, words) in zip(st.columns(3), boxes.items(), strict=True):
        present = sorted(set(table[name]), key=STATES.index if name == "state" else None)
        chosen = column.multiselect(words, present, key=f"runs_{name}", placeholder="All", **KEPT)
        left &= table[name].isin(chosen) if chosen else True
    return left


def folded(table: pd.DataFrame) -> pd.Series:
    """Whether each row is of a run without a result, while those are folded away; a switch shows them."""
    without = table["state"].isin(("failed", "cancelled", "interrupted"))
    if not without.any() or st.session_state.get("runs_state"):
        return without & False
    number = int(without.sum())
    if st.toggle(f"Show {number:,} without a result: failed, cancelled, interrupted", key="runs_without", **KEPT):
        return without & False
    return without


def draw_table(table: pd.DataFrame) -> list[str]:
    """Draw the runs; return the ids of those that are picked."""
    disk = style.size(float(table["disk"].sum()))
    st.caption(f"{style.counted(len(table), 'run')}, {disk} on the disk. Pick rows to see runs, and to delete them.")
    event = st.dataframe(
        table,
        hide_index=True,
        height=35 * (min(ROWS, len(table)) + 1) + 3,
        key="runs_table",
        on_select="rerun",
        selection_mode="multi-row",
        column_order=["state", "run", "kind", "family", "started", "took", "disk"],
        column_config={
            "run": st.column_config.TextColumn(width=320),
            "took": st.column_config.TextColumn(alignment="right"),
            "started": st.column_config.DatetimeColumn(format="D MMM, HH:mm", timezone=st.context.timezone),
            "disk": st.column_config.NumberColumn(format="bytes", help="What its folder takes on the disk"),
        },
    )
    rows = event["selection"]["rows"]
    return [str(table.iloc[row]["id"]) for row in rows if row < len(table)]


def draw_delete(runs: Sequence[Run]) -> None:
    """Delete what is picked, after a question; what is going stays."""
    ended = [run for run in runs if not run.status().active]
    with st.popover(f"Delete {style.counted(len(ended), 'run')}", icon=":material/delete:", key="runs_delete_ask"):
        st.markdown("Delete these runs and their results? Other pages will offer to start them again.")
        if st.button("Delete for good", type="primary", key="runs_delete"):
            remove(ended)


def draw(run: Run, status: Status, family: Family) -> None:
    """The state, results, parameters and log of one run, and what can be done with it."""
    st.markdown(run_line(run, status))
    if run_panel(run):
        with st.container(horizontal=True, vertical_alignment="center"):
            if run.kind in RESULTS:  # others were started from Python or the command line
                result_link(run, "See the result", family)
            st.caption(verbatim(run.results))
        files = sorted(path for path in run.results.rglob("*") if path.is_file())
        listed = [f"**{verbatim(file.relative_to(run.results))}** {style.size(file.stat().st_size)}" for file in files]
        more = f" · and {len(files) - LISTED_FILES} more files" if len(files) > LISTED_FILES else ""
        st.caption(" · ".join(listed[:LISTED_FILES]) + more)
    if status.peak_memory:
        st.caption(f"Peak memory of the worker: {style.size(status.peak_memory)}")
    parameters, log = st.tabs(["Parameters", "Log"])
    parameters.code(json.dumps(run.parameters, indent=1, ensure_ascii=False), language="json", wrap_lines=True)
    log.code(run.log() or "The log is empty.", language=None, height=220)
    if not status.active and status.state != "damaged":  # whose panel offers it
        with st.popover("Delete", icon=":material/delete:", key=f"run_delete_ask_{run.id}"):
            st.markdown("Delete this run and its results? Other pages will offer to start it again.")
            if st.button("Delete for good", type="primary", key=f"run_delete_{run.id}"):
                remove([run])


def remove(runs: Sequence[Run]) -> None:
    """Delete runs and draw the page again, which says then which of them stayed, and why."""
    stayed = []
    for run in runs:
        try:
            delete(run)
        except (InputError, OSError) as error:  # it goes on in another tab, or its folder is another user's
            why = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else str(error)
            stayed.append(f"**{verbatim(run.title)}** stays. {verbatim(why)}")
    st.session_state["runs_stayed"] = stayed
    st.rerun()


family = begin(
    "Runs",
    "What has been computed?",
    "Everything a page starts is a run: a folder with what was asked, how far it is, its log and its results. "
    "Runs go on when the page is closed, in the order of their start.",
    needs_models=False,
)
for message in st.session_state.pop("runs_stayed", ()):
    st.error(message)
listed = list_runs(cache_root())
if not listed:
    if empty_state(
        "Nothing was started yet. The Neurons page is a good beginning.", "Which neurons do what?", "runs_begin"
    ):
        st.switch_page("pages/2_Neurons.py", query_params={})  # the family goes along by itself
    draw_measured()  # what merges of the command line left
    st.stop()
table = described(listed, family)
table = table[filtered(table)]
table = table[~folded(table)].reset_index(drop=True)
asked = st.query_params.get("run", "")
picked = draw_table(table)
runs = {run.id: run for run in listed}
going = [name for name in table["id"] if runs[name].status().state in OPEN_STATES]
shown = [runs[name] for name in dict.fromkeys([*picked, *([asked] if asked in runs and not picked else []), *going])]
if len(picked) > 1:
    draw_delete([runs[name] for name in picked])
for run in shown[:SHOWN]:
    with st.container(border=True):
        draw(run, run.status(), family)
draw_measured()
how_computed(
    "A run's folder is named after its kind and a hash of its parameters, of the content of its models, corpora and "
    "other inputs, and of the version of what computes it: asking again for the same finds the same run, and a changed "
    "input can never show an old figure. A worker process for each accelerator, one where there is none, does the runs "
    "in the order they were started.",
    shlex.join(["ls", str(cache_root() / "runs")]),
    [Step("nm.history()")],
)
