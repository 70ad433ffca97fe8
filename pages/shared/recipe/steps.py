"""The steps that change what a method merged: which, in what order, and the controls of each."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from nmerge_core.family import Family
from nmerge_core.merging.recipe.registry import Method, steps
from pages.shared.frame.settings import KEPT
from pages.shared.recipe.controls import THEN
from pages.shared.recipe.data import known_of, tell_lacks
from pages.shared.recipe.parameters import Drawn, controls


def choose_steps(key: str, *, default: Sequence[str] | None = None, **kept: Any) -> list[Method]:
    """Draw the choice of steps after the method, and return them in their order."""
    known = steps()
    chosen = st.multiselect(
        "Then",
        list(known),
        default,
        format_func=lambda name: known[name].title,
        placeholder="nothing more",
        key=key,
        help="Steps that change what was merged before it is added to the base, in the order in which they are chosen",
        **kept,
    )
    return [known[name] for name in chosen]


def draw_steps(family: Family) -> list[dict[str, Any]]:
    """Draw the choice of steps after the method, and the controls of each, and return them as the recipe has them."""
    then = []
    for step in choose_steps(THEN, **KEPT):
        with st.container(border=True):
            st.markdown(f"**{step.title}**", help=f"{step.summary} ({step.paper})")
            shared, _ = controls(Drawn(step, (), (), known_of(family, step), family), steps())
            tell_lacks(family, step, shared)
        then.append({"method": step.name, **shared})
    return then
