"""Merge: choose a method, see at once what it does, keep what you like, and see what became of it."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from nmerge_core.cache import cache_root
from nmerge_core.candidates import CandidateLog
from nmerge_core.errors import InputError
from nmerge_core.family import Family
from nmerge_core.merging.engine import AnyRecipe, load
from nmerge_core.merging.recipe import mergekit_recipe as mergekit
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.recipe.registry import Method, methods
from nmerge_core.runs.folder import Run
from pages.shared.frame.page import begin, how_computed, tell_refused
from pages.shared.frame.results import Merged, merges
from pages.shared.frame.runs import run_panel
from pages.shared.frame.settings import KEPT, newly_named_run, put
from pages.shared.frame.text import verbatim
from pages.shared.kept.keeping import draw_run, not_here, title_of
from pages.shared.kept.notebook import commands, formula, steps
from pages.shared.kept.report import draw_report
from pages.shared.recipe.form import (
    ADDRESS,
    REOPENED,
    open_recipe,
    recipe_of_controls,
    recipe_of_mergekit,
    recipe_of_yaml,
    turned,
)
from pages.shared.recipe.gallery import draw_gallery, named_in_address, opening
from pages.shared.recipe.start import LAST
from pages.shared.tuning.asking import HEARD, ask_ahead
from pages.shared.tuning.bench import draw_tuning, follows
from pages.shared.tuning.candidates import draw_log

CHOSEN = "merge_report"  # the key of the merge whose report is drawn, by its run's id
SHOWN = "merge_shown"  # the key of the run of the recipe that was shown last
TO_SHOW = "merge_to_show"  # the key of the run whose report is to be drawn, until it is


def draw_recipe(name: str, family: Family, available: dict[str, Method]) -> str | dict[str, Any]:
    """Draw what makes a recipe of a method, its controls or a text, and return the recipe."""
    method = available.get(name)
    if method is None:
        return recipe_of_mergekit(name, family)
    source = st.segmented_control(
        "Recipe from",
        ["Controls", "YAML"],
        default="Controls",
        required=True,
        key="merge_source",
        label_visibility="collapsed",
        on_change=turned,
        args=(family,),
        **KEPT,
    )
    if source == "YAML":
        return recipe_of_yaml(st.session_state.get(LAST, ""))
    put(ADDRESS, None)
    return recipe_of_controls(family, method, available)


@st.fragment  # so that what a control changes is there before the reports below are drawn again
def draw_bench(name: str, family: Family, available: dict[str, Method]) -> None:
    """The recipe on the left, what its merge does on the right, and how that is computed."""
    st.session_state.pop(REOPENED, None)  # the controls are drawn now, as they were set
    recipe: AnyRecipe | None = None
    run: Run | None = None
    seconds = None
    settings, effect = st.columns([5, 7], gap="large")
    with settings:
        given = draw_recipe(name, family, available)
        with st.container(border=True):
            try:
                recipe = load(given)
                st.session_state[LAST] = recipe.yaml
                if isinstance(recipe, Recipe) and not not_here(recipe):
                    ask_ahead(recipe)
                run, seconds = draw_run(recipe, family)
            except InputError as error:
                st.error(verbatim(error))
            if recipe is not None:
                with st.expander("The recipe", icon=":material/description:"):
                    st.code(recipe.yaml, language="yaml", height=300, wrap_lines=True)
    with effect:
        with st.container():  # what is below keeps its place when there is a run, to which fragments of it are drawn
            if run is not None:
                run_panel(run)
        if recipe is not None and not isinstance(recipe, Recipe):
            st.caption("Stages, and mergekit's own methods, are merged to the disk alone: keep it to see what it does.")
        elif follows(seconds) and recipe is not None and seconds is not None:
            draw_tuning(recipe, family)
        if isinstance(recipe, Recipe):
            draw_log(recipe, CandidateLog(cache_root(), family.name), family)
    if run is not None and run.status().state == "done" and st.session_state.get(SHOWN) != run.id:
        st.session_state[SHOWN] = run.id
        if st.session_state.get(CHOSEN) != run.id:
            st.session_state[TO_SHOW] = run.id
            st.session_state[HEARD] = True  # nothing has changed: what was asked is not asked anew
            st.rerun()
    if recipe is None:
        tell_refused()
    else:
        how_computed(formula(recipe), commands(recipe, family), steps(recipe, title_of(recipe, family), family))


def draw_checkpoints(done: Mapping[str, Merged], family: Family) -> Merged:
    """The report of a finished merge, by its run's id, that one chooses; return which."""
    asked = newly_named_run("merge")
    wanted = asked.id if asked is not None else st.session_state.get(TO_SHOW)
    if wanted in done:
        st.session_state[CHOSEN] = wanted
        st.session_state.pop(TO_SHOW, None)
    if st.session_state.get(CHOSEN) not in done:
        st.session_state[CHOSEN] = next(iter(done))
    st.divider()
    st.subheader("Merged checkpoints", anchor=False)
    beside = st.container(horizontal=True)
    chosen = beside.selectbox(
        "Merge",
        list(done),
        format_func=lambda id: done[id].name,
        key=CHOSEN,
        label_visibility="collapsed",
        persist_state="session",
    )
    beside.button(
        "Open in the controls",
        key="merge_open",
        icon=":material/tune:",
        on_click=lambda: open_recipe(load(done[chosen].run.parameters["recipe"]).yaml, family),
        help="Set the controls above to this merge's recipe, to change it and merge again",
    )
    draw_report(done[chosen], family)
    return done[chosen]


family = begin(
    "Merge",
    "How do we make one model out of these?",
    "A merge adds what each fine-tune changed to the base, so that one model can do what each of them can. "
    "Move a control and see what it does; keep what you like.",
)
with st.spinner("Loading the merge methods", show_time=True):  # the first time in this process it brings torch along
    available = dict(methods())
named_in_address(available)
opening(available, family)
head = st.container(horizontal=True, vertical_alignment="bottom")
name = head.selectbox(
    "Method",
    [
        *sorted(available, key=lambda each: not available[each].when),
        *(sorted({*mergekit.METHODS} - {*available}) if mergekit.installed() else ()),
    ],
    index=None,
    format_func=lambda method: available[method].title if method in available else f"{method} (mergekit)",
    key="merge_method",
    placeholder="Choose a method",
    width=360,
    **KEPT,
)
if name is None:
    draw_gallery(available)
else:
    method = available.get(name)  # none of a method of mergekit's
    about = (
        f"{method.summary} *{method.paper}*"
        if method
        else "A method of mergekit's: [its documentation](https://github.com/arcee-ai/mergekit) has the parameters."
    )
    with head.popover("All methods", icon=":material/apps:", key="merge_gallery", on_change="rerun") as methods_shown:
        if methods_shown.open:
            draw_gallery(available)
    st.markdown(about)
    draw_bench(name, family, available)
done = {merge.run.id: merge for merge in merges(family)}
shown = draw_checkpoints(done, family) if done else None
if name is None and shown is not None:
    recipe = load(shown.run.parameters["recipe"])
    how_computed(formula(recipe), commands(recipe, family), steps(recipe, shown.name, family))
elif name is None:
    tell_refused()
