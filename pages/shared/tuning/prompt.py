"""What a merge is asked: the prompt, those that are kept with the family, examples, and how it is to be answered."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import streamlit as st

from nmerge_core.cache import DEMO
from nmerge_core.candidates import CandidateLog
from nmerge_core.corpus.corpus import load_corpus
from nmerge_core.errors import InputError
from nmerge_core.family import Family
from pages.shared.frame.address import forget_endless
from pages.shared.frame.settings import KEPT
from pages.shared.frame.terms import DEMO_KNOWS
from pages.shared.frame.text import shortened, verbatim

LENGTHS = (16, 48, 128, 256, 512)  # tokens
PROMPT = "merge_prompt"
UNSAVED = "merge_unsaved"  # the key of why the log could not be written, until that is said


def draw_prompt(family: Family, log: CandidateLog) -> list[str]:
    """Draw the prompt beside those that are kept and examples, and return it, and what else is asked."""
    kept, beginnings = log.prompts, examples_of(family)
    if PROMPT not in st.session_state and PROMPT not in st.query_params:
        st.session_state[PROMPT] = next(iter([*kept, *beginnings.values()]), "")
    prompt = st.text_area(
        "Prompt",
        key=PROMPT,
        height=96,
        help="Each model continues it, or answers it as a chat",
        placeholder="Type the beginning of a text, a problem of one of the tasks, say; the merge continues it",
        **KEPT,
    )
    if family.name == DEMO:
        st.caption(DEMO_KNOWS)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if beginnings:
            st.caption("Examples:", width="content")
        for category, beginning in beginnings.items():
            _offer(verbatim(category), f"merge_example_{category}", beginning)
        for number, text in enumerate(kept):
            _offer(verbatim(shortened(" ".join(text.split()), 28)), f"merge_kept_{number}", text)
        if prompt.strip():
            known = prompt in kept
            st.button(
                "Forget it" if known else "Keep this prompt",
                key="merge_prompt_forget" if known else "merge_prompt_keep",
                icon=f":material/bookmark_{'remove' if known else 'add'}:",
                type="tertiary",
                on_click=saving,
                args=(log.forget_prompt if known else log.keep_prompt, prompt),
                help=None if known else "Offer it for this family from now on",
            )
        others = [each for each in kept if each != prompt]
        every = bool(others) and st.toggle(
            "Ask all that are kept",
            key="merge_every_prompt",
            help="Their answers stand below those to this one",
            **KEPT,
        )
    return [prompt, *(others if every else [])]


def saving(act: Callable[..., None], *arguments: Any) -> None:
    """Write into the log, in a callback; why that cannot be is told when the page is drawn (`UNSAVED`)."""
    try:
        act(*arguments)
    except OSError as error:
        st.session_state[UNSAVED] = error.strerror or "it cannot be written"


def _offer(label: str, key: str, text: str) -> None:
    take = partial(st.session_state.update, {PROMPT: text})
    st.button(label, key=key, on_click=take, type="tertiary")


def draw_manner() -> tuple[int, tuple[tuple[str, Any], ...]]:
    """Draw how a prompt is answered: return the tokens at most, and the manner of `Asked`."""
    length = st.select_slider("Tokens at most", LENGTHS, LENGTHS[1], key="merge_length", **KEPT)
    chat = st.toggle(
        "As a chat", key="merge_chat", help="The prompt as a turn of each model's own chat template", **KEPT
    )
    temperature = st.slider(
        "Temperature", 0.0, 2.0, 0.0, 0.1, key="merge_temperature", help="0: always the likeliest token", **KEPT
    )
    manner: dict[str, Any] = {"chat": True} if chat else {}
    if temperature:
        forget_endless("merge_answer_seed")
        seed = st.number_input("Seed of the draws", 0, None, 0, key="merge_answer_seed", **KEPT)
        manner |= {"temperature": temperature, "seed": seed}
    return length, tuple(manner.items())


def examples_of(family: Family) -> dict[str, str]:
    """Beginnings of texts of each category of a family's corpus; none without one."""
    try:
        return examples(family.corpus) if family.corpus else {}
    except InputError:  # the Models page tells of it
        return {}


@st.cache_data(ttl=60, max_entries=8, show_spinner=False)
def examples(corpus: str) -> dict[str, str]:
    """The beginning of the first text of each category: up to the first word of its last line, or half of one line."""
    found: dict[str, str] = {}
    for exemplar in load_corpus(corpus).exemplars:
        *lines, last = exemplar.text.rstrip().split("\n")
        words = re.findall(r"\s*\S+", last)
        kept = "".join(words[: 1 if lines else -(-len(words) // 2)])
        found.setdefault(exemplar.category, "\n".join([*lines, kept]))
    return found
