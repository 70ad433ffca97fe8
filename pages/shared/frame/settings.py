"""What stands in a page's address: all of its settings, so that a link shows the same, and the run it shows."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import streamlit as st

from nmerge_core.cache import cache_root
from nmerge_core.runs.folder import Run, find
from pages.shared.frame.address import ENDLESS
from pages.shared.frame.text import shortened, verbatim

NOT_SETTINGS = ("family", "run")  # what every page looks at, and told of where it is read
PUT = "settings_put"  # the key of what this visitor's pages have written into the address themselves
DRAWN = "settings_drawn"  # of these, the names of those that the page as it stands has written
MOVED = "settings_moved"  # the key of the names of controls that a callback has moved, which the address lags behind
TOLD = 60  # characters of a setting that cannot be


class Staying(TypedDict):
    """How a control has its value still when one comes back to its page."""

    persist_state: Literal["session"]


class Keeping(Staying):
    """How it has it in the address too."""

    bind: Literal["query-params"]


STAYS: Staying = {"persist_state": "session"}
KEPT: Keeping = {"bind": "query-params", "persist_state": "session"}  # in the address, and for when one comes back


def asked_settings() -> dict[str, list[str]]:
    """The settings in the address as it stands before the page's controls have taken them, without what was `put`."""
    ours, st.session_state[DRAWN] = st.session_state.get(PUT, {}), set()
    not_asked = {*NOT_SETTINGS, *st.session_state.pop(MOVED, ())}
    asked = {name: st.query_params.get_all(name) for name in st.query_params if name not in not_asked}
    asked |= st.session_state.get(ENDLESS, {})
    return {name: values for name, values in asked.items() if values != [ours.get(name)]}


def put(name: str, text: str | None) -> None:
    """Write a setting that no control of Streamlit's binds into the address, or take it out of it."""
    st.session_state.setdefault(PUT, {})[name] = text
    st.session_state.setdefault(DRAWN, set()).add(name)
    if text is None:
        st.query_params.pop(name, None)
    elif st.query_params.get(name) != text:
        st.query_params[name] = text


def move(controls: Mapping[str, Any]) -> None:
    """Set controls to values, by their keys: what the address says of them is from before."""
    st.session_state.update(controls)
    st.session_state[MOVED] = {*st.session_state.get(MOVED, ()), *controls}


def take_back() -> None:
    """Take out of the address what was `put` there for controls that are drawn no more."""
    for name in st.session_state.get(PUT, {}).keys() - st.session_state.get(DRAWN, set()):
        st.query_params.pop(name, None)


def refused(asked: Mapping[str, Sequence[str]]) -> list[str]:
    """Say in Markdown which of the settings asked for the drawn controls did not take, and what they show instead."""
    said = []
    for name, values in asked.items():
        wanted = f"**{verbatim(name)}** = {verbatim(shortened(', '.join(values), TOLD))}"
        if name not in st.session_state:
            said.append(f"The address asks for {wanted}, which is no setting of this page as it stands.")
        elif st.query_params.get_all(name) != values and not _same(values, st.session_state[name]):
            ours = st.session_state.get(PUT, {}).get(name)  # of a control in which no choice stands for one of ours
            shown = ", ".join(map(str, _several(st.session_state[name]))) or ours or "nothing"
            said.append(f"The address asks for {wanted}, which cannot be; shown is {verbatim(shown)}.")
    return said


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def _same(asked: Sequence[str], value: Any) -> bool:
    """Whether a value, which Streamlit leaves out of the address where it is the default, is the one asked for."""
    return [_comparable(text) for text in asked if text] == [_comparable(str(each)) for each in _several(value)]


def _comparable(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text.lower()


def named_run(kind: str) -> Run | None:
    """The run of a kind that the address names (`?run=…`); none where that is damaged, as `lost_run` says."""
    named = st.query_params.get("run", "")
    run = find(cache_root(), named)
    return run if run is not None and run.kind == kind and not run.damage else None


def lost_run() -> str:
    """Say in Markdown that the run that the address names is not there, or is damaged; nothing where it is there."""
    named = st.query_params.get("run", "")
    run = find(cache_root(), named)
    if not named or (run is not None and not run.damage):
        return ""
    why = run.damage if run is not None else "There is none here: it was deleted, or made on another machine."
    return f"The address asks for the run **{verbatim(shortened(named, TOLD))}**. {verbatim(why)}"


def newly_named_run(kind: str) -> Run | None:
    """The run that the address names, once a visit: the controls are set to it, and may then be moved."""
    run = named_run(kind)
    if run is None or st.session_state.get("opened_run") == run.id:
        return None
    st.session_state["opened_run"] = run.id
    return run
