"""The frame of every page: heading, navigation, chosen family, worker; and how a page ends."""

import shlex
from collections.abc import Sequence
from typing import Literal

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from nmerge_core.cache import DEMO, cache_root
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.checkpoints.uses import tells_next
from nmerge_core.errors import InputError
from nmerge_core.family import Family, delete_family, demo_family, families
from nmerge_core.figures.style import COLOURS, MERGE
from nmerge_core.notebook import Notebook, Step
from nmerge_core.runs import client
from nmerge_core.runs.folder import Run, list_runs
from nmerge_core.version import __version__
from pages.shared.frame.address import ENDLESS
from pages.shared.frame.family import chosen_family, family_of
from pages.shared.frame.settings import asked_settings, lost_run, refused, take_back
from pages.shared.frame.text import verbatim

NAVIGATION = {
    "": [("app.py", "Home", "home")],
    "Understand": [
        ("pages/1_Models.py", "Models", "deployed_code"),
        ("pages/2_Neurons.py", "Neurons", "bar_chart"),
        ("pages/3_Explorer.py", "Explorer", "search"),
        ("pages/4_Similarity.py", "Similarity", "compare_arrows"),
    ],
    "Test": [
        ("pages/5_Knockout.py", "Knock-out", "content_cut"),
        ("pages/6_Linearity.py", "Linearity", "timeline"),
    ],
    "Merge": [
        ("pages/7_Merge.py", "Merge", "merge"),
        ("pages/10_Sweep.py", "Sweep", "travel_explore"),
        ("pages/8_Evaluate.py", "Evaluate", "checklist"),
        ("pages/11_Report.py", "Report", "article"),
    ],
    "Work": [("pages/9_Runs.py", "Runs", "list_alt")],
}

ICON = f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32" fill="none" stroke-width="4">
<path d="M6 5 L16 17" stroke="{COLOURS["math"]}"/><path d="M16 4 L16 17" stroke="{COLOURS["code"]}"/>
<path d="M26 5 L16 17" stroke="{COLOURS["translation"]}"/><path d="M16 16 L16 29" stroke="{MERGE}"/></svg>"""

STYLE = """<style>
.stMainBlockContainer { max-width: 1280px; padding: 2.6rem 3rem 4rem; }
.stMainBlockContainer h1 { font-size: 1.9rem; font-weight: 650; padding-bottom: .2rem; }
[data-testid="stSidebarUserContent"] { padding-top: 0; }
.stMainBlockContainer [data-testid="stPageLink"] a p { text-decoration: underline; text-underline-offset: .2em; }
.stMainBlockContainer [data-testid="stPageLink"] a, .stMainBlockContainer [data-testid="stPageLink"] a * {
  color: light-dark(#1F5FA8, #7FB2E6); }
.stApp button[kind="primary"], .stApp [data-tag], .stApp [data-tag] * { color: light-dark(#FFFFFF, #111418); }
@media (max-width: 640px) {
  .stMainBlockContainer { padding: 3.4rem 1rem 3rem; }
  .stMainBlockContainer [data-testid="stHorizontalBlock"] { gap: 1rem; }
}
[class*="_exports"] { margin-top: -.9rem; }
.nav-group { font-size: .72rem; letter-spacing: .06em; text-transform: uppercase; opacity: .6; margin: .5rem 0 -.6rem; }
.nav-brand { font-size: 1.25rem; font-weight: 700; letter-spacing: -.01em; }
.nav-brand small { font-size: .8rem; font-weight: 400; opacity: .65; margin-left: .35rem; }
</style>"""


def begin(title: str, question: str, sentence: str, *, needs_models: bool = True) -> Family:
    """Set up the page and draw its head: the question it answers and one sentence of context.

    A page that needs the models ends here, with the way to get them, while they are not on this machine; every page
    does, with what is wrong, where the family's file is not one.

    Args:
        title: The page's name in the browser's tab.
        question: The heading.
        sentence: What a newcomer must know to read the figure.
        needs_models: Whether the page makes no sense without the models' files.

    Returns:
        The family chosen in the sidebar.
    """
    sidebar: Literal["collapsed", "auto"] = "collapsed" if st.context.is_embedded else "auto"
    st.set_page_config(f"{title} · NMerge", ICON, layout="wide", initial_sidebar_state=sidebar)
    asked = asked_settings()
    st.html(STYLE)
    with st.sidebar:
        st.html('<div class="nav-brand">NMerge<small>neurons, seen and merged</small></div>')
        family, error = _choose_family()
        for group, links in NAVIGATION.items():
            if group:
                st.html(f'<div class="nav-group">{group}</div>')
            for path, label, icon in links:
                link(path, label, icon, family)
        _worker_state()
    if st.session_state.get("page_head", ("",))[0] != title:
        st.session_state.pop("opened_run", None)  # a page that one comes back to may be asked for the same run again
    st.session_state["page_head"] = (title, question, sentence, family.name)  # for `how_computed`, in fragments too
    st.title(question, anchor=False)
    st.markdown(sentence)
    st.session_state["page_asked"] = (st.container(), asked)
    if error:
        st.error(verbatim(error))
        if (broken := st.session_state["family"]) in families(cache_root()):
            st.caption("Mend that file, or delete the family and make it anew. Models and runs stay.")
            if st.button("Delete this family", key="family_delete", icon=":material/delete:"):
                delete_family(broken, cache_root())
                st.rerun()
        st.stop()
    if needs_models and (missing := family.missing):
        with lack(f"Not on this machine yet: {verbatim(', '.join(missing))}.", "download"):
            link("pages/1_Models.py", "Get the models", "arrow_forward", family)
        st.stop()
    return family


def link(path: str, label: str, icon: str, family: Family, **query: str | int | list[str]) -> None:
    """A link to another page that keeps the chosen family; `query` sets that page's other parameters."""
    told = {name: value if isinstance(value, list) else str(value) for name, value in query.items()}
    parameters = {"family": family.name} | told
    st.page_link(path, label=label, icon=f":material/{icon}:", query_params=parameters)


RESULTS = {
    "classify": ("pages/2_Neurons.py", "bar_chart"),
    "cosine": ("pages/4_Similarity.py", "compare_arrows"),
    "knockout": ("pages/5_Knockout.py", "content_cut"),
    "effects": ("pages/5_Knockout.py", "content_cut"),
    "label": ("pages/2_Neurons.py", "bar_chart"),
    "linearity": ("pages/6_Linearity.py", "timeline"),
    "merge": ("pages/7_Merge.py", "merge"),
    "sweep": ("pages/10_Sweep.py", "travel_explore"),
    "report": ("pages/11_Report.py", "article"),
    "evaluate": ("pages/8_Evaluate.py", "checklist"),
    "loss": ("pages/8_Evaluate.py", "checklist"),
}  # where a kind of run that pages start shows its result


def result_link(run: Run, label: str, chosen: Family) -> None:
    """A link to where a run's result is shown, for its own family; to Runs where there is none, or no such page."""
    [(runs, _, runs_icon)] = NAVIGATION["Work"]
    path, icon = RESULTS.get(run.kind if run.status().state == "done" else "", (runs, runs_icon))
    link(path, label, icon, family_of(run, chosen), run=run.id)


def tell_lack(family: Family, what: str, why: str) -> None:
    """Say that a family names no corpus or no tasks and `why` that matters, with the way to where it can."""
    with lack(f"This family names no {what}. {why}", "deployed_code"):
        link("pages/1_Models.py", "Change the family", "arrow_forward", family)


def writes(family: Family) -> bool:
    """Whether the models write texts, as causal language models do; the page ends, and says so, where there is none."""
    try:
        return tells_next(open_checkpoint(family.base).config)
    except InputError as error:
        st.error(verbatim(error))
        st.stop()


def lack(text: str, icon: str = "info") -> DeltaGenerator:
    """A box saying what is missing; what is drawn in it, a link or a button, is the way to get it."""
    box = st.container(border=True, horizontal=True, vertical_alignment="center", gap="medium")
    box.markdown(f":material/{icon}: {text}", width="stretch")
    return box


def command(*arguments: object) -> str:
    """A line for a shell: NMerge's command with these arguments, as it runs where NMerge's Python is `python`."""
    return shlex.join(["python", "-m", "nmerge_core", *map(str, arguments)])


def how_computed(formula_markdown: str, commands: str, steps: Sequence[Step]) -> None:
    """The folded end of a page: the formula with its source, the commands and the Python that give the same figures.

    Beside it the page is offered as a notebook, of that formula and that Python.
    """
    tell_refused()
    title, question, sentence, family = st.session_state["page_head"]
    context = (
        f"{sentence}\n\nFrom the page *{title}* of NMerge {__version__}, for the models of *{verbatim(family)}*. It "
        "runs from top to bottom wherever NMerge is installed, without the app. What was computed before is taken from "
        f"the cache, `{cache_root()}`; where NMerge has another one, set `NMERGE_CACHE` to it."
    )
    notebook = Notebook(question, context, formula_markdown, steps)
    folded, beside = st.columns([4, 1.6])
    beside.download_button(
        "Open as a notebook",
        notebook.to_json,
        f"{title.lower()}-{family}.ipynb",
        "application/x-ipynb+json",
        key="notebook",
        icon=":material/book_5:",
        on_click="ignore",
        width="stretch",
        help="This page's figures, for these models and settings, as a Jupyter notebook",
    )
    with folded.expander("How this is computed", icon=":material/function:"):
        st.markdown(formula_markdown)
        st.caption("The same from the command line")
        st.code(commands, language="bash", wrap_lines=True)
        st.caption("The same in Python")
        st.code(notebook.script, language="python")


def tell_refused() -> None:
    """Say below the page's head what of its address cannot be: settings that its controls did not take, a lost run."""
    take_back()
    st.session_state.pop(ENDLESS, None)
    if (told := st.session_state.pop("page_asked", None)) is None:  # a fragment alone is drawn again
        return
    place, asked = told
    for sentence in [*refused(asked), *filter(None, [lost_run()])]:
        place.warning(sentence, icon=":material/link_off:")


def empty_state(text: str, button_label: str, key: str) -> bool:
    """A box saying what is missing, with the one button that gets it; true when it was clicked."""
    with lack(text):
        return st.button(button_label, type="primary", key=key)


def _choose_family() -> tuple[Family, str]:
    """Draw the choice; return the family and an empty text, or the demo and why another cannot be shown."""
    names = [DEMO, *families(cache_root())]
    # What a page has just chosen is in the address only after this run.
    asked = st.session_state.pop("family_chosen", None) or st.query_params.get("family", DEMO)
    if st.session_state.get("family") in names:  # set again, else what an address has chosen is lost on the next page
        st.session_state["family"] = st.session_state["family"]
    st.selectbox(
        "Models",
        names,
        key="family",
        bind="query-params",
        help="The base and fine-tunes all pages look at. Make a family of your own on the Models page.",
    )
    if asked not in names:  # the box has put the demo in its place, whose numbers nobody asked for
        known = ", ".join(names)
        return demo_family(cache_root()), f"There is no family “{asked}” here. Choose one on the left: {known}."
    try:
        return chosen_family(), ""
    except InputError as error:
        return demo_family(cache_root()), str(error)


def _worker_state() -> None:
    active = any(run.status().state in ("queued", "running") for run in list_runs(cache_root()))
    st.fragment(_draw_worker_state, run_every=2 if active else None)()


def _draw_worker_state() -> None:
    states = [run.status().state for run in list_runs(cache_root())]
    running, queued = states.count("running"), states.count("queued")
    if queued or running:
        try:
            client.ensure_worker()
        except InputError as error:
            st.caption(f":material/error: {error}")
        parts = [f"{n} {what}" for n, what in ((running, "running"), (queued, "waiting")) if n]
        st.caption(f":material/progress_activity: Runs: {', '.join(parts)}")
    else:
        st.caption(":material/check_circle: Nothing running")
