"""Runs: everything that was started, how far it is, and what came of it."""

import json
import shlex

import streamlit as st

from nmerge_core.cache import cache_root
from nmerge_core.errors import InputError
from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.notebook import Step
from nmerge_core.runs.folder import STATES, Run, Status, delete, list_runs
from pages.shared.page import begin, how_computed, link
from pages.shared.runs import run_line, run_panel
from pages.shared.text import verbatim

PAGES = {
    "classify": ("pages/2_Neurons.py", "bar_chart"),
    "cosine": ("pages/4_Similarity.py", "compare_arrows"),
    "knockout": ("pages/5_Knockout.py", "content_cut"),
    "linearity": ("pages/6_Linearity.py", "timeline"),
    "merge": ("pages/7_Merge.py", "merge"),
    "evaluate": ("pages/8_Evaluate.py", "checklist"),
}
AT_ONCE = 20
LISTED_FILES = 12


def draw(run: Run, status: Status, family: Family) -> None:
    """The state, results, parameters and log of one run, and what can be done with it."""
    if run_panel(run):
        with st.container(horizontal=True, vertical_alignment="center"):
            if run.kind in PAGES:  # others were started from Python or the command line
                page, icon = PAGES[run.kind]
                link(page, "See the result", icon, family, run=run.id)
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
    if not status.active:
        with st.popover("Delete", icon=":material/delete:", key=f"run_delete_ask_{run.id}"):
            st.markdown("Delete this run and its results? Other pages will offer to start it again.")
            if st.button("Delete for good", type="primary", key=f"run_delete_{run.id}"):
                remove(run)


def remove(run: Run) -> None:
    """Delete the run, or say why that cannot be."""
    try:
        delete(run)
    except InputError as error:
        st.error(verbatim(error))
    else:
        st.rerun()


family = begin(
    "Runs",
    "What has been computed?",
    "Everything a page starts is a run: a folder with what was asked, how far it is, its log and its results. "
    "Runs go on when the page is closed, one after the other.",
    needs_models=False,
)
everything = [(run, run.status()) for run in list_runs(cache_root())]
if not everything:
    st.info("Nothing was started yet. The Neurons page is a good beginning.", icon=":material/list_alt:")
    link("pages/2_Neurons.py", "Which neurons do what?", "bar_chart", family)
    st.stop()
present = [state for state in STATES if any(status.state == state for _, status in everything)]
chosen = st.pills("State", present, selection_mode="multi", key="runs_states", help="All, if none is chosen")
listed = [(run, status) for run, status in everything if not chosen or status.state in chosen]
asked = st.query_params.get("run")
places = [place for place, (run, _) in enumerate(listed, start=1) if run.id == asked]
shown = max(
    [st.session_state.setdefault("runs_shown", AT_ONCE), *places]
)  # the one that the address names is among them
for run, status in listed[:shown]:
    opens = status.state not in ("done", "cancelled") or run.id == asked
    box = st.expander(run_line(run, status), expanded=opens, key=f"run_{run.id}", on_change="rerun")
    if box.open:
        with box:
            draw(run, status, family)
if len(listed) > shown and st.button(f"Show more ({len(listed) - shown} older)", key="runs_more"):
    st.session_state["runs_shown"] = shown + AT_ONCE
    st.rerun()
how_computed(
    "A run's folder is named after its kind and a hash of its parameters, of the content of its models, corpora and "
    "other inputs, and of the version of what computes it: asking again for the same finds the same run, and a changed "
    "input can never show an old figure. One worker process does the runs in the order they were started.",
    shlex.join(["ls", str(cache_root() / "runs")]),
    [Step("nm.history()")],
)
