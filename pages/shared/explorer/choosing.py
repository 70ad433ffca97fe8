"""Which neuron is shown: by its layer and number, or the next of those that were found."""

from functools import partial

import streamlit as st

from nmerge_core.runs.folder import Run
from pages.shared.explorer.finding import Found
from pages.shared.explorer.found import go_to, step
from pages.shared.explorer.searching import row_of
from pages.shared.frame.address import forget_outside, forget_unknown
from pages.shared.frame.settings import KEPT
from pages.shared.neurons.chosen import opened

FIRED = "explorer_fired"  # the text by which the neuron shown was looked for


def choose_neuron(run: Run, found: Found) -> tuple[int, int]:
    """The chosen layer and neuron, with buttons, and the arrow keys, that step through the neurons found."""
    known = opened(run)
    _follow(run, found)
    forget_unknown("layer", known.layers)
    first, second, third, fourth, fifth = st.columns([1, 1, 1.1, 1.1, 1.6], vertical_alignment="bottom")
    with first.container(key="explorer_layer"):
        layer: int = st.selectbox("Layer", known.layers, key="layer", help="0 is nearest to the input", **KEPT)
    width = known.widths[layer]
    forget_outside("neuron", 0, width - 1)
    with second.container(key="explorer_neuron"):
        neuron = int(st.number_input("Neuron", 0, width - 1, key="neuron", **KEPT))
    for column, key, label, shortcut, direction in (
        (third, "explorer_prev", "Previous", "Left", -1),
        (fourth, "explorer_next", "Next", "Right", 1),
    ):
        column.button(
            label, key=key, shortcut=shortcut, on_click=partial(step, direction, run, found), width="stretch",
            disabled=not len(found.rows),
        )  # fmt: skip
    place = found.place(row_of(run, layer, neuron))
    where = (
        f"{place + 1:,} of {len(found.rows):,} found" if place is not None else f"not among {len(found.rows):,} found"
    )
    fifth.markdown(f":small[{where}]")
    return layer, neuron


def _follow(run: Run, found: Found) -> None:
    """Go to the best hit where the reader has just asked for another text; a link says by itself which neuron."""
    fires = found.query.fires.strip()
    if fires != st.session_state.setdefault(FIRED, fires) and fires and len(found.rows):
        go_to(run, int(found.rows[0]))
    st.session_state[FIRED] = fires
