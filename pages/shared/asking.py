"""A prompt, and how a merge that was never written answers it, beside the models it is made of and pinned ones."""

import html
import json
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from nmerge_core.cache import cache_root
from nmerge_core.candidates import Candidate
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.errors import InputError
from nmerge_core.family import Family, Member
from nmerge_core.figures import style
from nmerge_core.inputs import Places, model_fingerprint
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.progress import Progress
from nmerge_core.runs import client
from nmerge_core.runs.folder import list_runs
from pages.shared.measuring import draw_needed, draw_provisional
from pages.shared.pending import answer_to, begin_to_ask
from pages.shared.recipe_form import REOPENED
from pages.shared.runs import run_panel
from pages.shared.settings import move
from pages.shared.text import verbatim

FIRST, PART = 1, 16  # tokens that an answer begins with, to be seen as early as can be, and that it grows by at once
ABREAST = 2  # answers beside each other
SHOWN = 0.001  # the least probability of a next token that is told
SECONDS = 3600.0  # that an answer may take: the first one reads the family, and says how far it is
FAILURES = (InputError, TimeoutError, RuntimeError)  # each a sentence for the user
REREAD = "merge_reread"  # the key of why the models had to be read again, until that is said
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
        begin_to_ask(*_live(recipe, inputs_of(recipe), asked, [], min(FIRST, asked.length)))


def _live(
    recipe: Recipe, inputs: list[str], asked: Asked, said: list[int], more: int
) -> tuple[str, Callable[[Progress], dict[str, Any]]]:
    """What a merge says next: the question by all that its answer depends on, and what asks it."""
    content = {**_question(asked), "said": said, "more": more}
    ask = partial(client.ask, "live", timeout=SECONDS, session=visitor(), recipe=recipe.content, **content)
    return json.dumps([recipe.yaml, inputs, content]), lambda progress: ask(progress=progress)


def _stop_following() -> None:
    move({LIVE: False})
    st.session_state[REOPENED] = True


def asked_of_merge(recipe: Recipe, asked: Asked, place: DeltaGenerator) -> Callable[[list[int], int], dict[str, Any]]:
    """What gives the next part of the answer of a recipe's merge, or the runs that it "needs" to say anything."""
    inputs = inputs_of(recipe)

    def part(said: list[int], more: int) -> dict[str, Any]:
        question = _live(recipe, inputs, asked, said, more)
        found = answer_to(*question, place, _stop_following, lambda found: "needs" not in found)
        st.session_state[REREAD] = found.pop("reread", "") or st.session_state.get(REREAD, "")  # to be said once
        return found

    return part


def _question(asked: Asked) -> dict[str, Any]:
    return {"prompt": asked.prompt, "manner": dict(asked.manner)}


def draw_answers(recipe: Recipe, family: Family, asked: Asked, pinned: Sequence[Candidate]) -> dict[str, Any] | None:
    """Draw how the merge answers, as it is said, then the others beside it; return what the merge said.

    Returns:
        The first part's facts (`operations.live`) with the whole "answer"; None where there is none, which is told.
    """
    with st.container(border=True, key="merge_answer"):
        st.markdown("**The merge**")
        text, following, far = st.empty(), st.empty(), st.empty()
        try:
            with st.spinner("Merging and asking", show_time=True):
                found = listen(asked_of_merge(recipe, asked, far), asked, text, following)
        except FAILURES as error:
            text.info(verbatim(error))
            if going := next((run for run in list_runs(cache_root()) if run.status().state == "running"), None):
                run_panel(going)  # which draws the page again when its end leaves room
            return None
        if reread := st.session_state.pop(REREAD, ""):
            st.caption(f":material/info: {verbatim(reread)}")
        if "answer" not in found:
            text.info("The merge goes by what its models do on texts, which is measured once.")
            draw_needed(found["needs"])
            return None
        draw_provisional(found)
    boxes = _abreast(len(pinned) + len([*family.members]))
    for candidate in pinned:
        _pinned_box(next(boxes), candidate, asked, found["answer"])
    for member in family.members:
        if member.reference in named(recipe):
            _member_box(next(boxes), member, asked, found["answer"])
    st.caption(":material/ink_highlighter: marks the words of the others that the merge does not say.")
    return found


def listen(
    part: Callable[[list[int], int], dict[str, Any]],
    asked: Asked,
    place: DeltaGenerator,
    following: DeltaGenerator | None = None,
) -> dict[str, Any]:
    """Show an answer as it grows; return the first part's facts with the whole of it, or what it "needs" first."""
    found: dict[str, Any] = {"tokens": [], "ended": False}
    first: dict[str, Any] = {}
    while not found["ended"] and len(found["tokens"]) < asked.length:
        more = PART if found["tokens"] else FIRST
        found = part(found["tokens"], min(more, asked.length - len(found["tokens"])))
        if "answer" not in found:
            return found
        if following is not None and not first:
            next_ones = ", ".join(likely(each) for each in found["next"] if each["probability"] >= SHOWN)
            following.caption(f"Next token: {next_ones}")
        first = first or found
        place.text(found["answer"])
    return {**first, **{name: found[name] for name in ("answer", "tokens", "ended")}}


def _abreast(boxes: int) -> Any:
    while True:
        yield from (column.container(border=True) for column in st.columns(min(ABREAST, max(1, boxes))))


def _member_box(box: DeltaGenerator, member: Member, asked: Asked, merged: str) -> None:
    box.markdown(f"**{verbatim(member.label)}**")
    place = box.empty()
    part = partial(member_said, member.reference, content_of(member.reference), _question(asked))
    try:
        place.html(marked(listen(part, asked, place)["answer"], merged))
    except FAILURES as error:
        place.info(verbatim(error))


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
