"""Lists of neurons that a family keeps: the neurons that one finds on the Explorer, to be merged apart on Merge."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import streamlit as st

from nmerge_core.cache import cache_root
from nmerge_core.errors import InputError
from nmerge_core.family import keep_neurons, keep_note
from nmerge_core.family.kept import LONGEST_NAME, MOST_NEURONS
from pages.shared.frame.family import chosen_family
from pages.shared.frame.page import link
from pages.shared.frame.text import shortened, verbatim
from pages.shared.neurons.exchange import FILE, draw_export, read_lists
from pages.shared.neurons.groups import described

Neurons = set[tuple[int, int]]
NAME = "explorer_list"
UNKEPT = "explorer_unkept"  # the key of why a list could not be kept, until that is said


def draw_keep(layer: int, neuron: int, others: Callable[[], Neurons], count: int, widths: Mapping[int, int]) -> None:
    """Draw what keeps a neuron in a list of the family, or all `count` of the `others`, the neurons found.

    `widths` are the numbers of neurons by layer, to check lists by that come from a file.
    """
    family = chosen_family()  # as its file is now, of which a callback has just written
    here, lists = (layer, neuron), family.neurons
    with st.popover("Keep in a list", icon=":material/bookmark_add:", type="tertiary", key="explorer_keep"):
        st.markdown("On Merge, the neurons of a list can be merged apart from all others.")
        if why := st.session_state.pop(UNKEPT, ""):
            st.error(verbatim(why))
        if name := st.text_input("Name of the list", key=NAME, max_chars=LONGEST_NAME, placeholder="a name").strip():
            known = Neurons(lists.get(name, ()))
            with st.container(horizontal=True):
                inside = here in known
                st.button(
                    "Take this neuron out" if inside else "Add this neuron",
                    key="explorer_list_one",
                    type="primary",
                    on_click=_keep,
                    args=(family.name, name, known ^ {here}),
                )
                if 1 < count <= MOST_NEURONS:
                    st.button(
                        f"Add all {count:,} neurons found",
                        key="explorer_list_all",
                        on_click=lambda: _keep(family.name, name, known | others()),
                    )
        for number, (each, neurons) in enumerate(lists.items()):
            with st.container(horizontal=True, horizontal_alignment="distribute", gap="small"):
                choose = partial(st.session_state.update, {NAME: each})
                label = f"{verbatim(shortened(each))} · {described(neurons)}"
                st.button(label, key=f"explorer_list_choose_{number}", type="tertiary", on_click=choose)
                forget = partial(_keep, family.name, each, ())
                st.button("Forget", key=f"explorer_list_forget_{number}", type="tertiary", on_click=forget)
        if lists or family.neuron_notes:
            draw_export(family)
        st.file_uploader(
            "Import lists and notes",
            "json",
            key=FILE,
            on_change=_take,
            args=(family.name, widths),
            help="As exported here",
        )
        if lists:
            link("pages/7_Merge.py", "Merge them apart", "merge", family, merge_method="neuronmerge")
    if inside_of := [each for each, neurons in lists.items() if here in neurons]:
        st.caption(f":material/bookmark: In {', '.join(verbatim(shortened(each)) for each in inside_of)}")


def _take(family: str, widths: Mapping[int, int]) -> None:
    """Keep the lists and notes of the file that was given, in a callback.

    A list of a name that is there already is replaced; a note comes below what is noted on the neuron already.
    """
    if (file := st.session_state[FILE]) is None:
        return
    try:
        lists, notes = read_lists(file.getvalue(), widths)
        for name, neurons in lists.items():
            _keep(family, name, neurons)
        for place, note in notes.items():
            keep_note(family, place, note, cache_root())
    except InputError as error:
        st.session_state[UNKEPT] = str(error)


def _keep(family: str, name: str, neurons: Iterable[tuple[int, int]]) -> None:
    """Keep a list, in a callback; why that cannot be is told when the page is drawn."""
    try:
        keep_neurons(family, name, neurons, cache_root())
    except InputError as error:
        st.session_state[UNKEPT] = str(error)
    except OSError as error:
        st.session_state[UNKEPT] = f"The family's file cannot be written: {error.strerror}."
