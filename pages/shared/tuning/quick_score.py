"""Score a merge that was never written, some problems at a time, beside the models that it is made of."""

from typing import Any

import streamlit as st

from nmerge_core.checkpoints import labels
from nmerge_core.errors import InputError
from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.figures.intervals import points
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.runs import client
from pages.shared.charts.charts import dark, show
from pages.shared.frame.family import content_of, member_colours
from pages.shared.frame.page import tell_lack
from pages.shared.frame.scoring import Scoring
from pages.shared.frame.settings import KEPT
from pages.shared.frame.tasks import code_switch, own_code_switch, task_name
from pages.shared.frame.text import verbatim
from pages.shared.tuning.asking import inputs_of
from pages.shared.tuning.quick_asking import Memory, Sight
from pages.shared.tuning.quick_board import BEST, MERGE, Row, finished, points_of, table

COUNTS = (20, 50)
TASKS, TEXTS = "Tasks", "Held-out texts"
EVERY = 1.0  # seconds between looks while there is more to score
AGAINST_HELP = "The best is chosen by the problems that it is then compared on, which flatters it"
COLUMNS = {  # pixels of a column, and what it says
    MERGE: (110, None),
    "Verdict": (
        150,
        "At 5 % over all rows together (Holm): an interval that leaves out 0 need not tell them apart. *So far*: a "
        "model that it is compared with, or the merge, is not scored on all of the row's problems",
    ),
    "Against": (100, None),
    "Difference": (110, "Of this merge from that model, problem by problem"),
    "95 %": (160, "The interval of the difference in this row alone"),
    "Could show": (100, "The smallest difference that so many problems show four times in five"),
}
NOTES = "Means over the problems, each by itself; whiskers: 95 % intervals, over documents where problems share them."


def draw_quick_scores(recipe: Recipe, family: Family) -> dict[str, dict[str, Any]]:
    """How a merge in memory scores on a few problems of each task, or on held-out texts, as the answers come in.

    Returns:
        What it scored in each row that is complete, by the row's title: metric, value, low, high (95 %), problems. The
        page is drawn again when all of them are.
    """
    st.subheader("Quick score", anchor=False)
    if not family.tasks and not family.corpus:
        tell_lack(family, "tasks", "Without them, or a corpus whose texts can be held out, there is nothing to score.")
        return {}
    memory = _memory()
    try:
        sight = _draw_controls(recipe, family)
        if sight is None:
            return {}
        unfinished, rows = memory.unfinished(sight), memory.rows_of(sight)
    except InputError as error:
        st.info(verbatim(error))
        return {}
    st.session_state["quick_drawn"] = True
    st.fragment(_draw_board, run_every=EVERY if unfinished else None)(sight, family, unfinished)
    return finished(memory.standings(sight, rows or [], BEST))


def _memory() -> Memory:
    return st.session_state.setdefault("quick_memory", Memory())


def _draw_controls(recipe: Recipe, family: Family) -> Sight | None:
    """Draw the controls and return what is to be scored; None where every task would run what is not allowed."""
    references = list(dict.fromkeys([recipe.base_model or family.base, *recipe.references]))
    short = dict(zip(references, labels(references), strict=True))
    models: dict[str, str] = {}
    for reference in references:
        name = family.labels.get(reference, short[reference])
        models[reference if name in (MERGE, *models) else name] = reference
    sources = [*([TASKS] if family.tasks else []), *([TEXTS] if family.corpus else [])]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        scored_on = sources[0]
        if len(sources) > 1:
            scored_on = st.segmented_control("On", sources, default=TASKS, required=True, key="quick_on", **KEPT)
        count = st.segmented_control("Of each", COUNTS, default=COUNTS[0], required=True, key="quick_count", **KEPT)
        st.selectbox(
            "Compared with", [BEST, *models], key="quick_against", help=AGAINST_HELP, width=240, persist_state="session"
        )
    content = {name: content_of(reference) for name, reference in models.items()}
    keys = {**content, MERGE: (recipe.yaml, *content.values(), *inputs_of(recipe))}
    if scored_on == TEXTS:
        return Sight(recipe.content, models, keys, count, corpus=family.corpus)
    allowed = code_switch(family.tasks, "quick_code", linked=False), own_code_switch(family.tasks, "quick_own_code")
    scoring = Scoring(family.tasks, count, *allowed)
    if left_out := scoring.left_out:
        told = "; ".join(f"{task_name(task)}, which would run {what}" for task, what in left_out.items())
        st.caption(f"Left out: {verbatim(told)}. Switch that on above.")
    tasks = tuple(scoring.allowed.tasks)
    return Sight(recipe.content, models, keys, count, tasks, None, *allowed) if tasks else None


def _draw_board(sight: Sight, family: Family, unfinished: bool) -> None:
    """Draw what is known, and have more asked for meanwhile once the page stands: it may be drawn anew at once."""
    with_page = st.session_state.pop("quick_drawn", False)
    try:
        _draw_known(sight, family)
        if unfinished and not with_page:
            if not _memory().unfinished(sight):
                st.rerun()  # the page, which looks no more then
            _memory().advance_meanwhile(sight, client.ask)
    except InputError as error:  # the corpus is gone, or the cache is full
        st.info(verbatim(error))
    except (TimeoutError, RuntimeError) as error:
        st.warning(verbatim(error))


def _draw_known(sight: Sight, family: Family) -> None:
    """Draw how the merge stands, and what cannot be scored and why."""
    memory = _memory()
    rows = memory.rows_of(sight)
    if rows is None:
        st.caption("Reading the problems.")
        return
    for name, reason in memory.lacking(sight).items():
        st.info(f"{verbatim(name)}: {verbatim(reason)}")
    for reason in (failures := memory.failures(sight, rows)):
        st.info(verbatim(reason))
    if failures and st.button("Try again", key="quick_again", icon=":material/replay:"):
        memory.forgive(sight)
        st.rerun()
    _draw_standings(sight, rows, family)


def _draw_standings(sight: Sight, rows: list[Row], family: Family) -> None:
    """The figure and the table of how the merge stands."""
    memory = _memory()
    found = memory.standings(sight, rows, st.session_state["quick_against"])
    models = [*sight.models, MERGE]
    frame = points_of(found)
    if not len(frame):
        st.caption("Scoring the first problems.")
        return
    own = member_colours(family, dark())
    colours = {name: own.get(name, style.base_colour(dark())) for name in sight.models} | {MERGE: style.MERGE}
    show(points(frame, colours, models, dark=dark()), "quick_figure", frame, "quick-scores")
    told = table(found, list(sight.models))
    about = {name: st.column_config.TextColumn(width=width, help=text) for name, (width, text) in COLUMNS.items()}
    about[""] = st.column_config.TextColumn(pinned=True)
    st.dataframe(told, hide_index=True, key="quick_table", column_config=about)
    done = sum(len(each.values) for row in memory.board(sight, rows).values() for each in row.values())
    whole = sum(row.count for row in rows) * len(models)
    if done < whole and memory.unfinished(sight):
        st.caption(f"{style.count(done)} of {style.count(whole)} problems scored.")
    said = "".join(f" Held out: {verbatim(text)}." for text in dict.fromkeys(row.said for row in rows) if text)
    st.caption(NOTES + said)
