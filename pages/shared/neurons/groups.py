"""Lists of neurons as groups of their own in a recipe: added from those that the family keeps, each with its choice."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import streamlit as st

from nmerge_core.family import Family
from nmerge_core.figures.style import counted
from nmerge_core.parameters.settings import LISTS
from pages.shared.frame.drafts import packed, unpacked
from pages.shared.frame.page import link
from pages.shared.frame.settings import put
from pages.shared.frame.text import shortened, verbatim

Lists = dict[str, Any]  # by name pairs of layer and neuron, or the file that has them
NAMED = 4  # layers that are named; of more the first and the last


def key_of(family: str) -> str:
    """The setting that the lists of a recipe are, of one family: other models have other neurons."""
    return f"merge_lists_{family}"


def draw_lists(family: Family, key: str, help: str, choose: Callable[[str, str], Any]) -> tuple[Lists, dict[str, Any]]:
    """Draw the recipe's lists, below each other.

    Given a list's label, which stands above already, and a key, `choose` draws what is done with its neurons.

    Returns:
        The lists as a recipe has them, each neuron in the first that has it, and what is done with each.
    """
    setting = key_of(family.name)
    if setting not in st.session_state:
        st.session_state[setting] = _asked(setting)
    lists: Lists = st.session_state[setting]
    st.markdown("**Lists of neurons**", help=help)
    written, choices = once_each(lists), {}
    for place, (name, neurons) in enumerate(lists.items()):
        own, label = f"{key}_{name}", f"{verbatim(shortened(name))} · {described(neurons)}"
        lost = 0 if isinstance(neurons, str) else len(neurons) - len(written.get(name, ()))
        with st.container(key=f"{own}_row", gap="xxsmall"):
            with st.container(horizontal=True, wrap=False, vertical_alignment="center", gap="small"):
                st.markdown(label, width="stretch")
                if lost:
                    _quiet("Move up", f"{own}_up", partial(_move_up, setting, place))
                _quiet("Remove", f"{own}_remove", partial(lists.pop, name, None))
            choice = choose(label, own)
            if name in written:
                choices[name] = choice
            if lost:
                st.caption(f"{counted(lost, 'neuron')} of it {'is' if lost == 1 else 'are'} merged with a list above.")
    _offer(family, lists, f"{key}_add")
    put(setting, packed(json.dumps(lists)) if lists else None)
    return written, choices


def _quiet(label: str, key: str, act: Callable[[], Any]) -> None:
    st.button(label, key=key, type="tertiary", on_click=act)


def _asked(setting: str) -> Lists:
    """The lists in the address; none where it has none, or something else."""
    text = unpacked(st.query_params[setting]) if setting in st.query_params else None
    try:
        found: Lists = LISTS.parse(json.loads(text or "{}"))
    except (ValueError, RecursionError):
        return {}
    return found


def once_each(lists: Mapping[str, Any]) -> Lists:
    """Leave every neuron in the first list that has it, as no recipe has one twice; a list that has no more goes."""
    taken = set[tuple[int, int]]()
    found: Lists = {}
    for name, each in lists.items():
        own = each if isinstance(each, str) else [pair for pair in each if tuple(pair) not in taken]
        if own:
            found[name] = own
        if not isinstance(each, str):
            taken.update(map(tuple, own))
    return found


def _move_up(setting: str, place: int) -> None:
    names = [*st.session_state[setting].items()]
    names[place - 1 : place + 1] = reversed(names[place - 1 : place + 1])
    st.session_state[setting] = dict(names)


def _offer(family: Family, lists: Lists, key: str) -> None:
    """Offer the family's lists that the recipe does not have; without any, the way to make one."""
    left = {f"{name} · {described(own)}": name for name, own in family.neurons.items() if name not in lists}
    if left:

        def add() -> None:
            if (name := left.get(st.session_state[key])) is not None:
                lists[name] = [list(pair) for pair in family.neurons[name]]
                st.session_state[key] = None

        st.selectbox(
            "Add a list",
            list(left),
            index=None,
            key=key,
            placeholder="of those that the family keeps",
            label_visibility="collapsed",
            on_change=add,
        )
    elif not family.neurons:
        st.caption("The family keeps no list yet: neurons that one finds in the Explorer can be kept in one there.")
        link("pages/3_Explorer.py", "Find neurons", "search", family)


def described(neurons: Any) -> str:
    """How many neurons a list has, and in which layers; of a file its name."""
    if isinstance(neurons, str):
        return verbatim(shortened(neurons))
    layers = sorted({layer for layer, _ in neurons})
    told = ", ".join(map(str, layers)) if len(layers) <= NAMED else f"{layers[0]} to {layers[-1]}"
    return f"{counted(len(neurons), 'neuron')} of layer{'s' if len(layers) > 1 else ''} {told}"
