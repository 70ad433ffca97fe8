"""How a merge that was never written answers prompts, beside the models it is made of and pinned candidates."""

import html
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from nmerge_core.cache import cache_root
from nmerge_core.candidates import Candidate, CandidateLog
from nmerge_core.errors import InputError
from nmerge_core.family import Family, Member
from nmerge_core.figures import style
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.runs.folder import list_runs
from pages.shared.asking import (
    FOLLOWED,
    LIVE,
    Asked,
    Spoken,
    inputs_of,
    member_key,
    merge_key,
    named,
    said_by_member,
    said_by_merge,
)
from pages.shared.listening import UNDER_WAY, Listening, hear_out, leave_others
from pages.shared.measuring import draw_needed, draw_provisional
from pages.shared.prompt import saving
from pages.shared.recipe_form import REOPENED, rerun_if_reopened
from pages.shared.runs import run_panel
from pages.shared.settings import move
from pages.shared.text import verbatim

AT_ONCE, LOOK = 0.6, 0.03  # seconds that a page waits for answers while it is drawn, and between looks
LOOK_AGAIN, PATIENCE = 0.5, 2.0  # seconds between looks later on, and until it is said how far an answer is
ABREAST = 2  # answers beside each other
SHOWN = 0.001  # the least probability of a next token that is told

STYLE = """<style>
.answer { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .92rem; line-height: 1.45; }
.answer mark { background: light-dark(#FFE7A3, #5C4A12); color: inherit; border-radius: 2px; padding: 0 1px; }
</style>"""


def draw_answers(recipe: Recipe, family: Family, asked: Sequence[Asked], number: int, log: CandidateLog) -> None:
    """Draw how the merge, candidate `number` of the log, answers each prompt, then how the others do.

    What is not over within a moment is looked at again and again, so that the page can be used meanwhile.
    """
    try:
        answers = Answers(recipe, inputs_of(recipe), family, asked, number, log)
        leave_others(answers.keys)
    except InputError as error:
        st.info(verbatim(error))
        return
    place = st.empty()
    with place.container():
        over = _draw_all(answers, time.monotonic() + AT_ONCE, patient=False)
    if not over:
        with place.container():
            _go_on_drawing(answers)


@dataclass(frozen=True)
class Answers:
    """What is drawn: the merge of a recipe that reads such inputs, candidate `number` of the log, and the prompts."""

    recipe: Recipe
    inputs: list[str]
    family: Family
    asked: Sequence[Asked]
    number: int
    log: CandidateLog

    @property
    def beside(self) -> list[Member]:
        """The models of the family that the merge is made of."""
        return [member for member in self.family.members if member.reference in named(self.recipe)]

    @property
    def keys(self) -> list[str]:
        """Which answers they are."""
        merged = [merge_key(self.recipe, self.inputs, asked) for asked in self.asked]
        return merged + [member_key(member.reference, asked) for member in self.beside for asked in self.asked]


@st.fragment(run_every=LOOK_AGAIN)
def _go_on_drawing(answers: Answers) -> None:
    rerun_if_reopened()
    if _draw_all(answers, time.monotonic()):
        st.rerun()  # to look no more


def _draw_all(answers: Answers, until: float, *, patient: bool = True) -> bool:
    """Draw what there is of all answers, as it comes until the time is; return whether they are over."""
    for index, asked in enumerate(answers.asked):
        if index:
            st.divider()
            st.text(asked.prompt)
        with st.container(key=None if patient else f"merge_answer_{index}"):  # a name is there once
            if not _draw_asked(answers, asked, until, patient):
                return False
    return True


def _draw_asked(answers: Answers, asked: Asked, until: float, patient: bool) -> bool:
    """Draw what the merge and the others say to a prompt; return whether all of it is there."""
    recipe, log, number = answers.recipe, answers.log, answers.number
    with st.container(border=True):
        st.markdown("**The merge**")
        spoken = said_by_merge(recipe, answers.inputs, asked)
        over, found = draw_spoken(spoken, until, patient), spoken.heard.found
        if over:
            if spoken.heard.error is not None:
                _draw_going()
            if reread := found.pop("reread", ""):
                st.caption(f":material/info: {verbatim(reread)}")
            _draw_what_stands_in(found)
    if not over or "answer" not in found:
        return over
    merged = found["answer"]
    if "needs" not in found:  # else it is another answer in a moment
        saving(log.learn, number, "answers", {asked.key: merged})
    pinned = [each for each in log.all() if each.pinned and each.number != number]
    beside = answers.beside
    boxes = _abreast(len(pinned) + len(beside))
    for candidate in pinned:
        _pinned_box(next(boxes), candidate, asked, merged)
    if not all(_member_box(next(boxes), member, asked, merged, until, patient) for member in beside):
        return False
    st.caption(":material/ink_highlighter: marks the words of the others that the merge does not say.")
    _tell_followed(found, recipe)
    return True


def _draw_going() -> None:
    """Draw the run that is going, where there is one, whose end draws the page again."""
    if going := next((run for run in list_runs(cache_root()) if run.status().state == "running"), None):
        run_panel(going)


def draw_spoken(spoken: Spoken, until: float, patient: bool, beside: str | None = None) -> bool:
    """Draw what is said as it comes, until that is over or the time is; return whether it is over.

    A `patient` look says how far what takes long is, with a button that cancels it. Words that `beside` does not have
    in their place are marked once it is over.
    """
    heard, text, following = spoken.heard, st.empty(), st.empty()
    while True:
        over = heard.over.wait(LOOK)
        answer = heard.found.get("answer")
        if answer is not None and over and beside is not None:
            text.html(marked(answer, beside))
        elif answer is not None:
            text.text(answer)
        if "next" in heard.found:
            next_ones = ", ".join(likely(each) for each in heard.found["next"] if each["probability"] >= SHOWN)
            following.caption(f"Next token: {next_ones or 'none is likely'}")
        if over or time.monotonic() >= until:
            break
    if over:
        hear_out(spoken.key)
        if heard.error is not None and not isinstance(heard.error, InputError | TimeoutError | RuntimeError):
            raise heard.error
        if heard.error is not None:  # a sentence for the user
            text.info(verbatim(heard.error))
    else:
        _draw_wait(heard, patient)
    return over


def _draw_wait(heard: Listening, patient: bool) -> None:
    """Say how far an answer is that takes long, beside a button that gives it up."""
    stage, done, total, unit = heard.report or ("Answering", 0, 0, "")
    far = f" · {style.count(done)} of {style.count(total)} {unit}".rstrip() if total else ""
    with st.container(horizontal=True, vertical_alignment="center"):
        if not patient or time.monotonic() - heard.began < PATIENCE:
            st.caption(":material/progress_activity: Merging and asking")
            return
        spent = style.duration(time.monotonic() - heard.began)
        st.progress(min(1.0, done / total) if total else 0.0, f"{verbatim(stage)}{far} · {spent}", width="stretch")
        st.button("Cancel", key="merge_cancel", icon=":material/close:", on_click=_stop_following)


def _draw_what_stands_in(found: Mapping[str, Any]) -> None:
    """Say what an answer needs first, or what stands in for it, and draw the runs that measure that."""
    if "answer" in found:
        draw_provisional(found)
    elif "needs" in found:
        st.info("The merge goes by what its models do on texts, which is measured once.")
        draw_needed(found["needs"])


def _tell_followed(found: Mapping[str, Any], recipe: Recipe) -> None:
    """Say what the merge took to follow its controls, where they and not the prompt were what changed."""
    before = st.session_state.get(FOLLOWED)
    st.session_state[FOLLOWED] = recipe.yaml
    if found["tensors"]:
        took = style.duration(found["seconds"])
        st.caption(f"{found['tensors']} of {found['of']} tensors merged anew in {took}.")
    elif before not in (None, recipe.yaml):
        st.caption("This changes no weight: all tensors are as they were.")


def _abreast(boxes: int) -> Any:
    while True:
        yield from (column.container(border=True) for column in st.columns(min(ABREAST, max(1, boxes))))


def _member_box(box: DeltaGenerator, member: Member, asked: Asked, merged: str, until: float, patient: bool) -> bool:
    """Draw what a model of the family says; return whether that is over."""
    with box:
        st.markdown(f"**{verbatim(member.label)}**")
        try:
            return draw_spoken(said_by_member(member.reference, asked), until, patient, merged)
        except InputError as error:  # its files are gone
            st.info(verbatim(error))
            return True


def _pinned_box(box: DeltaGenerator, candidate: Candidate, asked: Asked, merged: str) -> None:
    """What a pinned candidate answered when it was tried; it is not made again unless one goes back to it."""
    box.markdown(f"**#{candidate.number}** {verbatim(candidate.name)}")
    answer = candidate.answers.get(asked.key)
    if answer is None:
        box.caption("Not asked this: go back to it in the log, and it answers.")
    else:
        box.html(marked(answer, merged))


def _stop_following() -> None:
    for key in [*st.session_state[UNDER_WAY]]:
        st.session_state[UNDER_WAY].pop(key).leave()
    move({LIVE: False})
    st.session_state[REOPENED] = True


def marked(text: str, other: str) -> str:
    """A text as HTML, the words marked that another text does not have in their place."""
    words, beside = (re.findall(r"\s+|\S+", each.lstrip(" ")) for each in (text, other))
    parts = []
    for kind, start, stop, _, _ in SequenceMatcher(None, words, beside, autojunk=False).get_opcodes():
        said = html.escape("".join(words[start:stop]))
        parts.append(said if kind == "equal" or not said.strip() else f"<mark>{said}</mark>")
    return f'<div class="answer">{"".join(parts)}</div>'


def likely(following: dict[str, Any]) -> str:
    """A token that may come next, and its probability."""
    return f"{verbatim(repr(following['token']))} {style.percent(following['probability'])}"
