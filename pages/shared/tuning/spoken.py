"""What a model says to a prompt, drawn as it comes, and what may come after the prompt."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from nmerge_core.errors import InputError
from nmerge_core.figures import style
from pages.shared.frame.text import marked, verbatim
from pages.shared.tuning.asking import Spoken
from pages.shared.tuning.listening import hear_out

LOOK = 0.01  # seconds between looks at what is heard
SHOWN = 0.001  # the least probability of a next token that is told


@dataclass(frozen=True)
class Box:
    """Where an answer is drawn, and what may come after the prompt."""

    text: DeltaGenerator
    following: DeltaGenerator


def lay_box(title: str) -> Box:
    """Draw a title, and make room below it for an answer."""
    st.markdown(title)
    return Box(st.empty(), st.empty())


def fill_spoken(box: Box, spoken: Spoken, until: float, beside: str | None = None) -> bool:
    """Draw what is said as it comes, until that is over or the time is; return whether it is over.

    Words that `beside` does not have in their place are marked once it is over.
    """
    heard, drawn = spoken.heard, None
    while True:
        over, found = heard.over.is_set(), heard.found
        if found is not drawn or over:  # else there is nothing new
            _fill_box(box, found, beside if over else None)
            drawn = found
        if over or time.monotonic() >= until:
            break
        heard.over.wait(LOOK)
    if over:
        hear_out(spoken.key)
        if heard.error is not None and not isinstance(heard.error, InputError | TimeoutError | RuntimeError):
            raise heard.error
        if heard.error is not None:  # a sentence for the user
            box.text.info(verbatim(heard.error))
    elif "answer" not in found:
        box.text.caption(":material/progress_activity: …")
    return over


def _fill_box(box: Box, found: Mapping[str, Any], beside: str | None) -> None:
    if "answer" in found and beside is not None:
        box.text.html(marked(found["answer"], beside))
    elif "answer" in found:
        box.text.text(found["answer"])
    if "next" in found:
        next_ones = ", ".join(likely(each) for each in found["next"] if each["probability"] >= SHOWN)
        box.following.caption(f"Next token: {next_ones or 'none is likely'}")


def likely(following: dict[str, Any]) -> str:
    """A token that may come next, and its probability."""
    return f"{verbatim(repr(following['token']))} {style.percent(following['probability'])}"
