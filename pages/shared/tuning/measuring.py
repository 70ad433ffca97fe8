"""The runs that a merge in memory waits for: started where they are short, offered where they are not, and watched."""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from nmerge_core.errors import InputError
from nmerge_core.figures import style
from nmerge_core.runs import client
from pages.shared.frame.runs import latest_run, run_panel
from pages.shared.frame.text import verbatim

SHORT = 30.0  # seconds that runs may take together and are started for without a question
WHAT = {
    "classify": "which neurons do what",
    "coefficients": "how much of each model every part takes",
    "statistics": "what each model goes by on its texts",
    "merge": "what it goes by, in a merge to disk",
}


def draw_needed(needs: Sequence[Mapping[str, Any]]) -> None:
    """Draw the runs that an answer needs (`short_questions.live`), and start those that are short."""
    runs = [latest_run(need["kind"], need["parameters"]) for need in needs]
    waiting = [need for need, run in zip(needs, runs, strict=True) if run is None]
    seconds = sum(need["seconds"] for need in waiting)
    if waiting and (seconds <= SHORT or _asked(waiting[0]["kind"], seconds)):
        try:
            for need in waiting:
                client.submit(need["kind"], need["parameters"])
        except InputError as error:
            st.error(verbatim(error))
        else:
            st.rerun()
    for run in runs:
        if run is not None:
            run_panel(run)


def _asked(kind: str, seconds: float) -> bool:
    return st.button(f"Measure {WHAT[kind]} ({style.roughly(seconds)})", key="merge_measure", type="primary")


def draw_provisional(found: Mapping[str, Any]) -> None:
    """Say of an answer what stands in for what it should go by, and draw the runs that it needs."""
    if "provisional" in found:
        st.caption(f":orange-badge[provisional] It goes by {verbatim(found['provisional'])} until this is done:")
        draw_needed(found["needs"])
