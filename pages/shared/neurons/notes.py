"""Notes on single neurons that a family keeps, as its lists of neurons."""

from zlib import crc32

import streamlit as st

from nmerge_core.cache import cache_root
from nmerge_core.errors import InputError
from nmerge_core.family import keep_note
from nmerge_core.family.kept import LONGEST_NOTE
from pages.shared.frame.family import chosen_family
from pages.shared.frame.text import verbatim

UNKEPT = "explorer_note_unkept"  # the key of why a note could not be kept, until that is said


def note_on(layer: int, neuron: int) -> str:
    """What the chosen family's file, as it is now, notes on a neuron."""
    return chosen_family().neuron_notes.get((layer, neuron), "")


def draw_note(layer: int, neuron: int) -> None:
    """Draw what writes a note on a neuron; what is typed is kept when the box is left."""
    note = note_on(layer, neuron)
    key = f"explorer_note_{layer}_{neuron}_{crc32(note.encode())}"  # a note that came from elsewhere begins a new box
    with st.popover("Note", icon=":material/edit_note:", type="tertiary", key="explorer_note"):
        if why := st.session_state.pop(UNKEPT, ""):
            st.error(verbatim(why))
        st.text_area(
            f"Note on neuron {neuron} of layer {layer}",
            note,
            key=key,
            max_chars=LONGEST_NOTE,
            placeholder="What you think it does",
            on_change=_keep,
            args=(chosen_family().name, (layer, neuron), note, key),
        )
        st.caption("Kept with the family when you leave the box. *Find neurons* looks for it, and JSON has it.")


def _keep(family: str, place: tuple[int, int], before: str, key: str) -> None:
    """Keep a note, in a callback; why that cannot be is told when the page is drawn."""
    try:
        keep_note(family, place, st.session_state[key], cache_root(), before=before)
    except InputError as error:
        st.session_state[UNKEPT] = str(error)
    except OSError as error:
        st.session_state[UNKEPT] = f"The family's file cannot be written: {error.strerror}."
