"""Report: do the papers' figures and tables hold for these models? All of them, beside the papers' own."""

import html
import time
from collections.abc import Container
from dataclasses import replace
from pathlib import Path

import plotly.graph_objects as go
import streamlit as st
from plotly.io import from_json

from nmerge_core.cache import DEMO, cache_root
from nmerge_core.errors import InputError
from nmerge_core.family import Family
from nmerge_core.files.kept_files import read_csv, read_object, reading
from nmerge_core.notebook import Step, literal
from nmerge_core.reports.budget import BUDGETS, QUICK
from nmerge_core.reports.parameter import content_of
from nmerge_core.reports.said import VERDICTS, read_said
from nmerge_core.reports.verdicts import AGREES, DIFFERS, UNCLEAR
from nmerge_core.runs.folder import Run, list_runs
from pages.shared.charts.charts import dark, show
from pages.shared.frame.estimates import told_reports
from pages.shared.frame.page import begin, command, how_computed, link
from pages.shared.frame.runs import run_button, run_panel, took
from pages.shared.frame.settings import KEPT, named_run
from pages.shared.frame.tasks import CODE_SWITCH, code_switch, own_code_switch, runs_code
from pages.shared.frame.text import verbatim
from pages.shared.neurons.behind import show_neurons
from pages.shared.neurons.classified import classified

BADGES = {AGREES: "green", DIFFERS: "orange", UNCLEAR: "gray"}
PAPERS = ("NeuronMerge", "NeuroMerging")
FORMULA = """
Each merge is made in memory and scored once, on the same problems of what its fine-tunes were made for: the task that
is called as the fine-tune or its category, else the one on which it gains most; without tasks, the loss on the corpus's
held-out texts. Verdicts go by 95 % intervals: exact McNemar or a paired bootstrap over problems, Holm's adjustment over
what is compared at once. **Agrees** and **does not agree** mean that the interval lies wholly on one side; else one
**cannot tell**. What is chosen by a search, task arithmetic's α and DARE's density, is chosen on the same problems, as
in the papers.
"""


def badge(verdict: str) -> str:
    """A verdict in its colour, as Markdown."""
    return f":{BADGES.get(verdict, 'gray')}-badge[{verbatim(verdict)}]"


def settings(family: Family) -> dict[str, object]:
    """Draw the controls; return the run's parameters."""
    budget = st.segmented_control(
        "Budget", list(BUDGETS), default=QUICK.name, required=True, key="report_budget", **KEPT
    )
    lasts = st.empty()
    run_code = code_switch(family.tasks, "report_code")
    own_code = own_code_switch(family.tasks, "report_own_code")
    if not run_code and any(map(runs_code, family.tasks)):
        st.caption(f"Without “{CODE_SWITCH}” models are judged by their loss on held-out texts in place of tasks.")
    given = {"family": content_of(family), "budget": budget, "run_code": run_code, "allow_task_code": own_code}
    given |= {"device": "auto"}
    lasts.caption(told_reports([given | {"budget": each} for each in BUDGETS]))
    return given


def folder_of(run: Run) -> Path:
    """Where a run's report is, finished or stopped."""
    return run.results if run.status().state == "done" else run.part


def draw_claims(folder: Path) -> None:
    """The six findings, each with its verdict."""
    st.subheader("The six claims", anchor=False)
    columns = ("claim", "source", "verdict", "told", "reason")
    for claim in read_csv(folder / "tables" / "claims.csv", columns, keep_default_na=False, na_values=[]).itertuples():
        said, told = st.columns([2, 3], gap="medium")
        said.markdown(f"**{verbatim(claim.claim)}** {badge(claim.verdict)}")
        said.caption(verbatim(claim.source))
        told.markdown(verbatim(claim.told))
        if claim.reason:
            told.caption(verbatim(claim.reason))


def draw_downloads(run: Run, folder: Path) -> None:
    """The report as files."""
    with st.container(horizontal=True):
        for name, label, icon, kind in (
            ("index.html", "The report, one file", "description", "text/html"),
            ("report.ipynb", "Its notebook", "book_5", "application/x-ipynb+json"),
        ):
            st.download_button(
                label,
                (folder / name).read_bytes,
                f"{run.id}-{name}" if name == "report.ipynb" else f"{run.id}.html",
                kind,
                key=f"report_{name}",
                icon=f":material/{icon}:",
                on_click="ignore",
            )


def leading_to(figure: go.Figure, known: Container[str]) -> go.Figure:
    """The figure with what stands for neurons of known models alone leading to them."""
    for trace in figure.data:
        points = trace.customdata if trace.customdata is not None else []
        trace.customdata = [point if html.unescape(point[0]) in known else None for point in points] or None
    return figure


def draw_entries(folder: Path, family: Family) -> None:
    """The entries of one paper, in its order; what in a figure of a family stands for neurons leads to them."""
    paper = st.segmented_control(
        "Paper",
        PAPERS,
        default=PAPERS[0],
        required=True,
        key="report_paper",
        **KEPT,
    )
    done = classified(family).usable if family.corpus else {}
    for name, found in read_said(folder).items():
        if found.paper != paper:
            continue
        st.markdown(f"##### {verbatim(found.number)}. {verbatim(found.title)} {badge(found.verdict)}")
        st.markdown(f"The paper: {verbatim(found.trend)}  \nThis family: {verbatim(found.told)}")
        if found.note:
            st.caption(verbatim(found.note))
        figure = folder / "figures" / f"{name}-{'dark' if dark() else 'light'}.json"
        if figure.exists():
            with reading(figure):
                drawn = from_json(figure.read_text(encoding="utf-8"), skip_invalid=True)
            if found.behind:
                show_neurons(leading_to(drawn, done), f"report_{name}", family, done, found.behind)
            else:
                show(drawn, f"report_{name}")
        files = {"This family": folder / "tables" / f"{name}.csv", "The paper": folder / "papers" / f"{name}.csv"}
        columns = [(title, read_csv(file)) for title, file in files.items() if file.exists()]
        for place, (title, table) in zip(st.columns(max(1, len(columns))), columns, strict=False):
            place.caption(title)
            place.dataframe(table, hide_index=True, key=f"report_table_{name}_{title}")


def draw_older(family: Family, shown: Run | None) -> None:
    """Links to the other reports of this family."""
    done = [
        run
        for run in list_runs(cache_root())
        if run.kind == "report"
        and (shown is None or run.id != shown.id)
        and run.status().state == "done"
        and run.parameters["family"]["name"] == family.name
    ]
    if not done:
        return
    with st.expander("Other reports of this family", icon=":material/history:"):
        for run in done:
            made = time.strftime("%d %b, %H:%M", time.localtime(run.created))
            lasted = f", took {seconds}" if (seconds := took(run.status())) else ""
            link("pages/11_Report.py", f"{run.parameters['budget']}, {made}{lasted}", "description", family, run=run.id)


family = begin(
    "Report",
    "Do the papers' findings hold for these models?",
    "A report makes every figure and table of NeuronMerge and NeuroMerging that this family allows, sets each beside "
    "the paper's own, and says whether the two agree.",
)
controls, view = st.columns([1, 3], gap="large")
named = named_run("report")
with controls:
    if named is None:
        given = settings(family)
    else:
        given = dict(named.parameters)
        st.markdown(f"Budget: **{given['budget']}**")
        link("pages/11_Report.py", "Another report", "arrow_forward", family)
with view:
    run = named or run_button("report", given, "Make the report", "report_run", f"Report of {family.name}")
    if run is None:
        if not family.corpus:
            judged = "" if family.tasks else ", and no tasks: nothing to judge models by"
            st.caption(f"This family names no corpus{judged}. The report says of each entry what it lacks.")
        st.caption("It goes on where it was when it is stopped, and leaves what it has measured.")
    else:
        run_panel(run)
draw_older(family, run)
if run is not None and not run.status().active and (folder := folder_of(run)).joinpath("index.html").is_file():
    try:
        for note in read_object(folder / VERDICTS, {"notes": list})["notes"]:
            st.info(verbatim(note))
        draw_downloads(run, folder)
        draw_claims(folder)
        st.subheader("Every figure and table", anchor=False)
        draw_entries(folder, family if content_of(family) == given["family"] else replace(family, corpus=None))
    except InputError as error:
        st.error(verbatim(error))
written = {name: value for name, value in given.items() if name not in ("family", "device")}
switches = [f"--{name.replace('_', '-')}" for name in ("run_code", "allow_task_code") if given[name]]
content = given["family"]
name = content["name"] if isinstance(content, dict) else "family"
arguments = ", ".join(
    f"{key}={literal(value) if isinstance(value, str) else value!r}" for key, value in written.items()
)
how_computed(
    FORMULA,
    command(
        "report",
        DEMO if name == DEMO else f"{name}.yaml",
        "--out",
        "report",
        "--budget",
        given["budget"],
        *switches,
    ),
    [
        Step(f"report = nm.report({literal(DEMO if name == DEMO else content)}, {arguments})\nreport.claims"),
        Step("report.verdicts", "## Every figure and table"),
        Step("print(report.page)", "## The page that needs no server"),
    ],
)
