"""How a merge that was never written answers prompts, beside the models it is made of and pinned candidates."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
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
from pages.shared.frame.runs import run_panel
from pages.shared.frame.settings import move
from pages.shared.frame.text import marked, shortened, verbatim
from pages.shared.recipe.form import REOPENED, rerun_if_reopened
from pages.shared.tuning.asking import (
    FOLLOWED,
    HEARD,
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
from pages.shared.tuning.listening import UNDER_WAY, Listening, leave_others
from pages.shared.tuning.measuring import draw_needed, draw_provisional
from pages.shared.tuning.prompt import saving
from pages.shared.tuning.spoken import Box, fill_spoken, lay_box

AT_ONCE = 0.6  # seconds that a page waits for answers while it is drawn
LOOK_AGAIN, PATIENCE = 0.5, 2.0  # seconds between looks later on, and until it is said how far an answer is
ABREAST = 2  # answers beside each other


@dataclass(frozen=True)
class Laid:
    """Where the answers to a prompt are drawn, those of pinned candidates and of the family's models, and notes."""

    asked: Asked
    merge: Box
    notes: DeltaGenerator
    pinned: Sequence[tuple[Candidate, Box]]
    members: Sequence[tuple[Member, Box]]
    end: DeltaGenerator


@dataclass(frozen=True)
class Answers:
    """What is drawn: the merge of a recipe that reads such inputs, candidate `number` of the log, and what is asked."""

    recipe: Recipe
    inputs: Sequence[str]
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
        keys = [merge_key(self.recipe, self.inputs, asked) for asked in self.asked]
        for member in self.beside:
            with suppress(InputError):  # its files are gone, which its box tells
                keys += [member_key(member.reference, asked) for asked in self.asked]
        return keys


def draw_answers(recipe: Recipe, family: Family, asked: Sequence[Asked], number: int, log: CandidateLog) -> None:
    """Draw how the merge, candidate `number` of the log, answers each prompt, then how the others do.

    What is not over within a moment is looked at again and again, so that the page can be used meanwhile.
    """
    try:
        answers = Answers(recipe, inputs_of(recipe), family, asked, number, log)
    except InputError as error:
        st.info(verbatim(error))
        return
    # Drawn as all is over, what failed or is provisional is shown: asked again, that would be over again, and so on.
    leave_others(answers.keys, anew=not st.session_state.pop(HEARD, False))
    place = st.empty()
    with place.container():
        over = _draw_all(answers, time.monotonic() + AT_ONCE, again=False)
    with st.container():
        if not over:
            place.empty()
            _draw_again(answers)


@st.fragment(run_every=LOOK_AGAIN)
def _draw_again(answers: Answers) -> None:
    rerun_if_reopened()
    if _draw_all(answers, time.monotonic(), again=True):
        st.session_state[HEARD] = True
        st.rerun()  # to look no more


def _draw_all(answers: Answers, until: float, *, again: bool) -> bool:
    """Draw what there is of all answers, as it comes until the time is; return whether they are over.

    What has a name is drawn once, be it the first time or `again`: the first time where all is over.
    """
    far = st.container(horizontal=True, vertical_alignment="center")
    pinned = [each for each in answers.log.all() if each.pinned and each.number != answers.number]
    places = [_lay_out(asked, index, pinned, answers.beside, again) for index, asked in enumerate(answers.asked)]
    begun, waiting = list[tuple[Laid, Listening]](), None
    for laid in places:
        spoken = said_by_merge(answers.recipe, answers.inputs, laid.asked)
        begun.append((laid, spoken.heard))
        waiting = _fill(answers, laid, spoken, until)
        if waiting is not None:
            break
    for laid, heard in begun:
        if heard.over.is_set() and (again or waiting is None):
            with laid.notes.container():
                _draw_notes(heard)
        if waiting is None and "answer" in heard.found:
            with laid.end.container():
                st.caption(":material/ink_highlighter: marks the words of the others that the merge does not say.")
                _tell_followed(heard.found, answers.recipe)
    if waiting is not None and again:
        with far:
            _draw_wait(waiting)
    return waiting is None


def _lay_out(asked: Asked, index: int, pinned: Sequence[Candidate], beside: Sequence[Member], again: bool) -> Laid:
    with st.container(key=None if again else f"merge_answer_{index}"):
        if index:
            st.divider()
            st.text(asked.prompt)
        with st.container(border=True):
            merge, notes = lay_box("**The merge**"), st.empty()
        places = _abreast(len(pinned) + len(beside))
        candidates, members = [], []
        for candidate in pinned:
            with next(places):
                candidates.append(
                    (candidate, lay_box(f"**#{candidate.number}** {verbatim(shortened(candidate.name))}"))
                )
        for member in beside:
            with next(places):
                members.append((member, lay_box(f"**{verbatim(shortened(member.label))}**")))
        return Laid(asked, merge, notes, candidates, members, st.empty())


def _abreast(boxes: int) -> Iterator[DeltaGenerator]:
    while True:
        yield from (column.container(border=True) for column in st.columns(min(ABREAST, max(1, boxes))))


def _fill(answers: Answers, laid: Laid, spoken: Spoken, until: float) -> Listening | None:
    """Draw what the merge and the others say to a prompt until the time is; return what is not over by then."""
    if not fill_spoken(laid.merge, spoken, until):
        return spoken.heard
    found = spoken.heard.found
    if "answer" not in found:
        return None
    if "needs" not in found:  # else it is another answer in a moment
        saving(answers.log.learn, answers.number, "answers", {laid.asked.key: found["answer"]})
    for candidate, box in laid.pinned:
        _fill_pinned(box, candidate, laid.asked, found["answer"])
    for member, box in laid.members:
        try:
            said = said_by_member(member.reference, laid.asked)
        except InputError as error:  # its files are gone
            box.text.info(verbatim(error))
            continue
        if not fill_spoken(box, said, until, found["answer"]):
            return said.heard
    return None


def _draw_wait(heard: Listening) -> None:
    """Say how far an answer is that takes long, beside a button that gives it up."""
    spent = time.monotonic() - heard.began
    if spent < PATIENCE:
        return
    stage, done, total, unit = heard.report or ("Answering", 0, 0, "")
    far = f" · {style.count(done)} of {style.count(total)} {unit}".rstrip() if total else ""
    told = f"{verbatim(stage)}{far} · {style.duration(spent)}"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.progress(min(1.0, done / total) if total else 0.0, told, width="stretch")
        st.button("Cancel", key="merge_cancel", icon=":material/close:", on_click=_stop_following)


def _draw_notes(heard: Listening) -> None:
    """Say what an answer needs first, or what stands in for it, and draw the runs that measure that."""
    if reread := heard.found.get("reread"):
        st.caption(f":material/info: {verbatim(reread)}")
    going = (run for run in list_runs(cache_root()) if run.status().state == "running")
    if heard.error is not None and (run := next(going, None)):
        run_panel(run)  # whose end may leave room
    elif "answer" in heard.found:
        draw_provisional(heard.found)
    elif "needs" in heard.found:
        st.info("The merge goes by what its models do on texts, which is measured once.")
        draw_needed(heard.found["needs"])


def _tell_followed(found: Mapping[str, Any], recipe: Recipe) -> None:
    """Say what the merge took to follow its controls, where they and not the prompt were what changed."""
    before = st.session_state.get(FOLLOWED)
    st.session_state[FOLLOWED] = recipe.yaml
    if found["tensors"]:
        took = style.duration(found["seconds"])
        st.caption(f"{found['tensors']} of {found['of']} tensors merged anew in {took}.")
    elif before not in (None, recipe.yaml):
        st.caption("This changes no weight: all tensors are as they were.")


def _fill_pinned(box: Box, candidate: Candidate, asked: Asked, merged: str) -> None:
    """What a pinned candidate answered when it was tried; it is not made again unless one goes back to it."""
    answer = candidate.answers.get(asked.key)
    if answer is None:
        box.text.caption("Not asked this: go back to it in the log, and it answers.")
    else:
        box.text.html(marked(answer, merged))


def _stop_following() -> None:
    for key in [*st.session_state[UNDER_WAY]]:
        st.session_state[UNDER_WAY].pop(key).leave()
    move({LIVE: False})
    st.session_state[REOPENED] = True
