"""A prompt on the Evaluate page, and how each of the chosen models continues it."""

from collections.abc import Mapping

import streamlit as st

from nmerge_core.cache import DEMO
from nmerge_core.errors import InputError
from nmerge_core.family import Family
from nmerge_core.runs import client
from pages.shared.frame.family import content_of
from pages.shared.frame.settings import KEPT
from pages.shared.frame.terms import DEMO_KNOWS
from pages.shared.frame.text import verbatim

NEW_TOKENS = 64
ABREAST = 3  # answers beside each other


@st.cache_data(max_entries=256, show_spinner=False)
def answer(reference: str, content: str, prompt: str) -> str:
    """How a model continues a prompt, asked of the worker; `content` is its fingerprint."""
    return client.ask("generate", model=reference, prompt=prompt, max_new_tokens=NEW_TOKENS)


def draw_continued(models: Mapping[str, str], family: Family) -> str:
    """Draw a prompt and how each model continues it, its most likely token at a time; return the prompt."""
    st.subheader("Ask them yourself", anchor=False)
    prompt: str = st.text_area(
        "Prompt",
        key="evaluate_prompt",
        label_visibility="collapsed",
        placeholder="Type the beginning of a text; every chosen model continues it",
        **KEPT,
    )
    if family.name == DEMO:
        st.caption(DEMO_KNOWS)
    if not prompt.strip():
        return ""
    columns = st.columns(min(ABREAST, len(models)))
    for index, (name, reference) in enumerate(models.items()):
        with columns[index % len(columns)].container(border=True):
            st.markdown(f"**{verbatim(name)}**")
            try:
                with st.spinner("Asking the model", show_time=True):
                    st.text(answer(reference, content_of(reference), prompt))
            except (InputError, TimeoutError, RuntimeError) as error:
                st.warning(verbatim(error))
    return prompt
