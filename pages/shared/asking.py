"""A prompt, and how a merge that was never written answers it, beside the models it is made of and pinned ones."""

import html
import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from nmerge_core.cache import cache_root
from nmerge_core.candidates import Candidate, CandidateLog
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.errors import InputError
from nmerge_core.family import Family, Member
from nmerge_core.figures import style
from nmerge_core.inputs import Places, model_fingerprint
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.progress import Progress
from nmerge_core.runs import client
from nmerge_core.runs.folder import list_runs
from pages.shared.listening import UNDER_WAY, Listening, hear_out, leave_others, listen
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
SECONDS = 3600.0  # that an answer may take: the first one reads the family, and says how far it is
ASKED = "merge_asked"  # the key of what the merge is asked, while answers are looked at
FOLLOWED = "merge_followed"  # the key of the recipe that was answered last
LIVE = "merge_live"  # the key of the switch that has the merge answer as its controls move

STYLE = """<style>
.answer { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .92rem; line-height: 1.45; }
.answer mark { background: light-dark(#FFE7A3, #5C4A12); color: inherit; border-radius: 2px; padding: 0 1px; }
</style>"""


@dataclass(frozen=True)
class Asked:
    """A prompt, the tokens of an answer at most, and the fields of `answers.Manner` that are no defaults."""

    prompt: str
    length: int
    manner: tuple[tuple[str, Any], ...]

    @property
    def key(self) -> str:
        """What the log keeps an answer under."""
        return json.dumps([self.prompt, self.length, dict(self.manner)])

    @property
    def question(self) -> dict[str, Any]:
        """What the worker is told of it."""
        return {"prompt": self.prompt, "manner": dict(self.manner)}


@dataclass(frozen=True)
class Spoken:
    """What is heard of an answer, and which it is."""

    key: str
    heard: Listening


@st.cache_data(max_entries=1024, show_spinner=False)
def member_said(reference: str, content: str, asked: dict[str, Any], said: list[int], more: int) -> dict[str, Any]:
    """What a model of the family says next; `content` is its fingerprint."""
    return client.ask("speak", timeout=SECONDS, model=reference, said=said, more=more, **asked)


def visitor() -> str:
    """Who asks: one tab of a browser, whose newer question takes the place of an older one."""
    name: str = st.session_state.setdefault("visitor", secrets.token_hex(8))
    return name


def ask_ahead(recipe: Recipe) -> None:
    """Have the merge of a recipe asked what the one before was asked, while the page is drawn up to its answer."""
    asked: Asked | None = st.session_state.get(ASKED)
    if asked is not None and st.session_state.get(FOLLOWED) != recipe.yaml:
        said_by_merge(recipe, inputs_of(recipe), asked)


def said_by_merge(recipe: Recipe, inputs: list[str], asked: Asked) -> Spoken:
    """What the merge of a recipe says, which is what is listened to alone: of a newer one, no older is waited for."""
    key = json.dumps(["merge", recipe.yaml, inputs, asked.key])
    leave_others([key])
    session, content = visitor(), dict(recipe.content)

    def part(said: Sequence[int], more: int, progress: Progress) -> dict[str, Any]:
        what = {**asked.question, "said": list(said), "more": more, "recipe": content}
        found: dict[str, Any] = client.ask("live", timeout=SECONDS, session=session, progress=progress, **what)
        return found

    return Spoken(key, listen(key, part, asked.length))


def said_by_member(reference: str, asked: Asked) -> Spoken:
    """What a model of the family says."""
    key = json.dumps(["member", content_of(reference), asked.key])

    def part(said: Sequence[int], more: int, progress: Progress) -> dict[str, Any]:
        what = {**asked.question, "said": list(said), "more": more, "model": reference}
        found: dict[str, Any] = client.ask("speak", timeout=SECONDS, progress=progress, **what)
        return found

    return Spoken(key, listen(key, part, asked.length))


def _stop_following() -> None:
    for key in [*st.session_state[UNDER_WAY]]:
        st.session_state[UNDER_WAY].pop(key).leave()
    move({LIVE: False})
    st.session_state[REOPENED] = True


def draw_answers(recipe: Recipe, family: Family, asked: Sequence[Asked], number: int, log: CandidateLog) -> None:
    """Draw how the merge, candidate `number` of the log, answers each prompt, then how the others do.

    What is not over within a moment is looked at again and again, so that the page can be used meanwhile.
    """
    try:
        inputs = inputs_of(recipe)
    except InputError as error:
        st.info(verbatim(error))
        return
    answers = Answers(recipe, inputs, family, asked, number, log)
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


@st.fragment(run_every=LOOK_AGAIN)
def _go_on_drawing(answers: Answers) -> None:
    rerun_if_reopened()
    if _draw_all(answers, time.monotonic()):
        st.rerun()  # to look no more


def _draw_all(answers: Answers, until: float, *, patient: bool = True) -> bool:
    """Draw what there is of all answers, as it comes until the time is; return whether they are over."""
    for index, asked in enumerate(answers.asked):
        if index:
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
    beside = [member for member in answers.family.members if member.reference in named(recipe)]
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


def marked(text: str, other: str) -> str:
    """A text as HTML, the words marked that another text does not have in their place."""
    words, beside = (re.findall(r"\s+|\S+", each.lstrip(" ")) for each in (text, other))
    parts = []
    for kind, start, stop, _, _ in SequenceMatcher(None, words, beside, autojunk=False).get_opcodes():
        said = html.escape("".join(words[start:stop]))
        parts.append(said if kind == "equal" or not said.strip() else f"<mark>{said}</mark>")
    return f'<div class="answer">{"".join(parts)}</div>'


def prompt_of(key: str) -> str:
    """The prompt of what the log keeps an answer under."""
    try:
        return str(json.loads(key)[0])
    except (ValueError, LookupError, TypeError):
        return key


def inputs_of(recipe: Recipe) -> list[str]:
    """The content of all that a recipe reads, its models among it: a changed file makes another merge of it."""
    _, found = recipe.in_full(Places(cache_root()))
    return [f"{name} {content}" for name, content in found.items()]


def named(recipe: Recipe) -> list[str]:
    """The base of a recipe, where it has one, and its models."""
    return [*([recipe.base_model] if recipe.base_model else []), *recipe.references]


def content_of(reference: str) -> str:
    """The fingerprint of a model."""
    return model_fingerprint(open_checkpoint(reference))


def likely(following: dict[str, Any]) -> str:
    """A token that may come next, and its probability."""
    return f"{verbatim(repr(following['token']))} {style.percent(following['probability'])}"
