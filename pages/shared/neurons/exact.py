"""What the number format decides: how many categories of the base are others where it runs in float32."""

import streamlit as st

from nmerge_core.classification.agreement import EXACT
from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.runs.folder import Run
from pages.shared.frame.runs import start_all
from pages.shared.neurons.chosen import classification_run, classify_parameters, opened, rounded


def tell_rounding(family: Family, base: Run, k: int, margin: int) -> None:
    """Say it of a base that ran in a shorter format, or offer the run that would tell."""
    ran_in = opened(base).run_dtype
    if ran_in in ("", EXACT):
        return
    asked = classify_parameters(family, family.members[0]) | {"run_dtype": EXACT}
    exact = classification_run(asked)
    state = "" if exact is None else exact.status().state
    if exact is not None and state == "done":
        share = rounded(str(base.results), str(exact.results), k, margin)
        st.caption(f"The base ran in {ran_in}: {style.percent(share)} of its neurons have another category in {EXACT}.")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        going = f"; a run in {EXACT} is {state}" if state in ("queued", "running") else ""
        st.caption(f"The base ran in {ran_in}, whose rounding decides some categories{going}.", width="content")
        if not going and st.button(
            f"How many? Classify it in {EXACT} too", key="neurons_exact", type="tertiary", icon=":material/play_arrow:"
        ):
            start_all("classify", {f"Classify base in {EXACT}": asked})
