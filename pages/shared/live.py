"""Ask a merge that was never written: its answer follows the controls, beside those of the models it is made of."""

import re
from functools import partial
from typing import Any

import streamlit as st

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.corpus import load_corpus
from nmerge_core.errors import InputError
from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.inputs import model_fingerprint
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.runs import client
from pages.shared.settings import KEPT
from pages.shared.text import verbatim

NEW_TOKENS = 48
ABREAST = 4  # answers beside each other
SHOWN = 0.001  # the least probability of a next token that is told
SECONDS = 120.0  # that an answer may take: the first one reads the family, and compiles its loops once


@st.cache_data(max_entries=256, show_spinner=False)
def continued(reference: str, content: str, prompt: str) -> str:
    """How a model of the family continues a prompt; `content` is its fingerprint."""
    return client.ask("generate", timeout=SECONDS, model=reference, prompt=prompt, max_new_tokens=NEW_TOKENS)


@st.cache_data(max_entries=64, show_spinner=False)
def merged_answer(recipe: str, content: dict[str, Any], prompt: str, fingerprints: tuple[str, ...]) -> dict[str, Any]:
    """How the merge of a recipe continues a prompt; the recipe's text and its models' content say which merge it is."""
    return client.ask("live", timeout=SECONDS, recipe=content, prompt=prompt, more=NEW_TOKENS)


@st.fragment  # so that a prompt draws this part of the page again, and not its controls
def draw_live(recipe: Recipe, family: Family) -> None:
    """A prompt, how the merge of the recipe continues it, and how the models that it is made of do."""
    st.subheader("Try it", anchor=False)
    st.caption("The merge is made in memory and answers at once; move a control, and the answer follows.")
    prompt = st.text_area(
        "Prompt",
        key="merge_prompt",
        label_visibility="collapsed",
        placeholder="Type the beginning of a text, a problem of one of the tasks, say; the merge continues it",
        **KEPT,
    )
    begin_with(family)
    if not prompt.strip():
        return
    try:
        with st.spinner("Merging and asking", show_time=True):
            found = merged_answer(recipe.yaml, dict(recipe.content), prompt, tuple(map(content_of, named(recipe))))
    except InputError as error:
        st.info(verbatim(error))
        return
    except (TimeoutError, RuntimeError) as error:
        st.warning(verbatim(error))
        return
    with st.container(border=True, key="merge_answer"):
        st.markdown("**The merge**")
        st.text(found["answer"])
        st.caption(f"Next token: {', '.join(likely(each) for each in found['next'] if each['probability'] >= SHOWN)}")
    members = [member for member in family.members if member.reference in named(recipe)]
    boxes = st.columns(min(ABREAST, len(members))) if members else []
    for place, member in enumerate(members):
        with boxes[place % len(boxes)].container(border=True):
            st.markdown(f"**{verbatim(member.label)}**")
            try:
                st.text(continued(member.reference, content_of(member.reference), prompt))
            except (InputError, TimeoutError, RuntimeError) as error:
                st.warning(verbatim(error))
    st.caption(f"{found['tensors']} of {found['of']} tensors merged anew in {style.duration(found['seconds'])}.")


def begin_with(family: Family) -> None:
    """Buttons that put the beginning of a text of each category of the family's corpus into the prompt."""
    try:
        beginnings = examples(family.corpus) if family.corpus else {}
    except InputError:  # the Models page tells of it
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        for category, beginning in beginnings.items():
            take = partial(st.session_state.update, merge_prompt=beginning)
            st.button(f"Example: {verbatim(category)}", key=f"merge_example_{category}", on_click=take, type="tertiary")


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


def named(recipe: Recipe) -> list[str]:
    """The base of a recipe, where it has one, and its models."""
    return [*([recipe.base_model] if recipe.base_model else []), *recipe.references]


def content_of(reference: str) -> str:
    """The fingerprint of a model."""
    return model_fingerprint(open_checkpoint(reference))


def likely(following: dict[str, Any]) -> str:
    """A token that may come next, and its probability."""
    return f"{verbatim(repr(following['token']))} {style.percent(following['probability'])}"
