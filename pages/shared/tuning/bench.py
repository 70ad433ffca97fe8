"""What the merge of the controls does, at once: its answers follow them, and every candidate is kept in a log."""

import streamlit as st

from nmerge_core.cache import cache_root
from nmerge_core.candidates import CandidateLog
from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.merging.recipe.recipe import Recipe
from pages.shared.frame.settings import KEPT
from pages.shared.frame.text import MARKED, verbatim
from pages.shared.recipe.form import rerun_if_reopened
from pages.shared.tuning.answers import draw_answers
from pages.shared.tuning.asking import ASKED, LIVE, Asked
from pages.shared.tuning.candidates import draw_comparison, draw_head, trail_of
from pages.shared.tuning.health import draw_health
from pages.shared.tuning.listening import leave_others
from pages.shared.tuning.prompt import UNSAVED, draw_manner, draw_prompt, saving
from pages.shared.tuning.quick_score import draw_quick_scores
from pages.shared.tuning.strip import draw_strip

AT_ONCE = 10.0  # seconds that a merge may take by the estimate and still begin without being asked to
VIEWS = ANSWERS, SCORES, HEALTH, TOKENS, COMPARE = "Answers", "Quick score", "Health", "Tokens", "Compare"


def follows(seconds: float | None) -> bool:
    """Draw the switch that has the merge answer as its controls move; `seconds` is what it may take, if that is known.

    It stands on at first where an answer is there before one would wonder.
    """
    long = seconds is not None and seconds > AT_ONCE
    on = st.toggle(
        "Answer as I change it",
        not long,
        key=LIVE,
        help="The merge is made in memory, nothing is written, and what a control changes is merged anew",
        **KEPT,
    )
    st.session_state.pop(ASKED, None)
    if not on:
        leave_others(())
        told = f" The first answer takes about {style.duration(seconds)}." if long and seconds else ""
        st.caption(f"Switch it on to see at once what each change does.{told}")
    return on


@st.fragment  # so that a prompt draws this part of the page again, and not its controls
def draw_tuning(recipe: Recipe, family: Family) -> None:
    """The candidate that the controls make, and how it answers."""
    rerun_if_reopened()
    st.html(MARKED)
    log = CandidateLog(cache_root(), family.name)
    try:
        candidate = log.visit(recipe.yaml)
    except OSError as error:
        st.warning(f"The log of candidates cannot be written: {verbatim(error.strerror)}.")
        return
    if why := st.session_state.pop(UNSAVED, ""):
        st.warning(f"The log of candidates cannot be written: {verbatim(why)}.")
    trail_of(family).visit(candidate.number)
    draw_head(candidate, log, family)
    prompt, *others = draw_prompt(family, log)
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        view = st.segmented_control(
            "Look at",
            VIEWS,
            default=ANSWERS,
            required=True,
            key="merge_view",
            label_visibility="collapsed",
            wrap=True,
            **KEPT,
        )
        with st.popover("How it answers", icon=":material/tune:", type="tertiary"):
            length, manner = draw_manner()
    # What draws itself again, as quick scores do, stays where its place is given to nothing else.
    places = {each: st.container() if each == view else st.empty() for each in VIEWS}
    with places[view]:
        if view == COMPARE:
            draw_comparison(candidate, log, family)
        elif view == SCORES:
            saving(log.learn, candidate.number, "scores", draw_quick_scores(recipe, family))
        elif view == HEALTH:
            draw_health(recipe, family)
        elif view == TOKENS:
            draw_strip(recipe, family, prompt)
        elif asked := [Asked(each, length, manner) for each in (prompt, *others) if each.strip()]:
            st.session_state[ASKED] = asked[0]
            draw_answers(recipe, family, asked, candidate.number, log)
