"""The choice of some layers among many: picked from a list, or typed as ranges."""

from collections.abc import Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from nmerge_core.figures import style
from nmerge_core.parameters.settings import LAYERS
from pages.shared.frame.address import forget_unknown
from pages.shared.frame.text import verbatim

FEW = 6  # layers that are all shown at first


def choose_layers(layers: Sequence[int], key: str, place: DeltaGenerator) -> list[int]:
    """The chosen ones of a model's layers, ascending; they are in the address under `key`, a range as it was typed."""
    typed = [each for each in st.session_state.get(key) or [] if isinstance(each, str)]
    forget_unknown(key, [*layers, *typed])
    last = layers[-1]
    chosen = place.multiselect(
        "Layers",
        layers,
        usual_layers(layers),
        key=key,
        bind="query-params",
        accept_new_options=True,
        wrap=True,
        placeholder="Choose layers",
        help=f"The layers drawn below; 0 is nearest to the input. Pick some, or type a range and press Enter: "
        f"0-{min(3, last)}, or 0-{last}/4 for every fourth",
    )
    found, unread = read_layers(chosen, layers)
    if unread:
        place.caption(
            f"{verbatim(', '.join(unread))}: expected layers from {layers[0]} to {last}, such as 1,3-5 or 0-{last}/4."
        )
    elif len(chosen) != len(found):  # ranges are among them
        place.caption(f"{style.counted(len(found), 'layer')} of {len(layers)}")
    return found


def usual_layers(layers: Sequence[int]) -> list[int]:
    """All of a few layers; of many every fifth and the last, as in NeuronMerge, Fig. 6; of more than 40 about nine."""
    return list(layers) if len(layers) <= FEW else sorted({*layers[:: max(5, len(layers) // 8)], layers[-1]})


def read_layers(chosen: Sequence[int | str], layers: Sequence[int]) -> tuple[list[int], list[str]]:
    """Return the layers that numbers and typed ranges name, ascending, and what of it names none."""
    found, unread = set[int](), []
    for each in map(str, chosen):
        try:
            named = {*LAYERS.from_text(each)} & {*layers}
        except ValueError:
            named = set()
        found |= named
        if not named:
            unread.append(each)
    return sorted(found), unread
