"""A setting that differs over the layers: a curve that one draws, of all weights or of attention or MLP alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import streamlit as st

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.errors import InputError
from nmerge_core.merging.recipe import gradients
from nmerge_core.merging.recipe.changes import in_words
from nmerge_core.parameters.values import Number
from pages.shared.frame.drafts import packed, unpacked
from pages.shared.frame.settings import put
from pages.shared.frame.text import verbatim

SCRIPT = Path(__file__).with_name("curve.js").read_text(encoding="utf-8")
CSS = """
.curve { width: 100%; max-width: 560px; touch-action: none; font-size: 10px; }
.curve text { fill: var(--st-text-color); opacity: .75; }
.curve .grid { stroke: var(--st-border-color); stroke-width: 1; }
.curve .line { fill: none; stroke: var(--st-primary-color); stroke-width: 2; }
.curve .point { fill: var(--st-primary-color); stroke: var(--st-background-color); stroke-width: 1.5; }
.curve .point { cursor: ns-resize; }
.curve .point:focus-visible { outline: none; stroke: var(--st-text-color); stroke-width: 2.5; }
"""
CURVES = "merge_curves"  # the setting of the page: by control the value in the recipe's own form
EVERYWHERE, ATTENTION, MLP = "all weights", "attention only", "MLP only"
PARTS = {ATTENTION: ("att",), MLP: ("mlp", "feed_forward", "ffn", "moe")}  # as what families call their modules has it


@dataclass(frozen=True)
class Varying:
    """A control whose setting may differ over the layers."""

    key: str
    label: str
    parameter: Number
    value: float  # where it stands for all layers alike


def curves() -> dict[str, Any]:
    """What differs over the layers, by control; on a visit's first look what the address has."""
    if CURVES not in st.session_state:
        asked = unpacked(st.query_params[CURVES]) if CURVES in st.query_params else None
        try:
            found = json.loads(asked or "{}")
        except (ValueError, RecursionError):
            found = {}
        asked_for = found.items() if isinstance(found, dict) else ()
        st.session_state[CURVES] = {key: value for key, value in asked_for if _is_curve(value)}
    known: dict[str, Any] = st.session_state[CURVES]
    return known


def _is_curve(value: Any) -> bool:
    """Whether a value has the form of a gradient, or of a list of filters; the recipe's reader checks the rest."""
    if not isinstance(value, list) or not value:
        return False
    if not isinstance(value[0], dict):
        return all(isinstance(each, int | float) for each in value)
    inside = [each.get("value") if isinstance(each, dict) else None for each in value]
    return all(isinstance(each, int | float) or (isinstance(each, list) and _is_curve([*each])) for each in inside)


def keep_curves() -> None:
    """Write what differs over the layers into the address."""
    put(CURVES, packed(json.dumps(curves())) if curves() else None)


def draw_told(key: str, label: str) -> Any:
    """Say that a control's setting differs over the layers, with the way back to one number; return the value."""
    value = curves()[key]
    st.markdown(f"{label}  \n:small[{verbatim(in_words(value))}]")
    st.button("One number", key=f"{key}_flat", type="tertiary", on_click=curves().pop, args=(key, None))
    return value


def _list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def draw_editor(varying: Sequence[Varying], base: str) -> None:
    """Draw what sets a curve: which setting, where, a shape to start at, and the curve itself."""
    editor = st.expander("Over depth", icon=":material/show_chart:", key="merge_depth", on_change="rerun")
    if not editor.open:
        return
    with editor:
        names, layers = modules(base)
        left, right = st.columns(2)
        by_key = {each.key: each for each in varying}
        key = left.selectbox("Setting", list(by_key), format_func=lambda key: by_key[key].label, key="merge_depth_of")
        chosen = by_key[key]
        places = [EVERYWHERE, *(names if chosen.parameter.low is None or chosen.parameter.low <= 0 else ())]
        where, values = _parted(curves().get(key), names, chosen, layers)
        where = right.selectbox(
            "Where", places, places.index(where) if where in places else 0, key=f"{key}_where", help="The rest gets 0"
        )
        presets = shapes(chosen.value, layers)
        with st.container(horizontal=True, gap="small"):
            for name, shape in presets.items():
                put_it = partial(_set, key, _value(where, shape, names))
                st.button(name, key=f"{key}_shape_{name}", type="tertiary", on_click=put_it)
        low, high = _bounds(chosen, values)
        component = st.components.v2.component("curve", css=CSS, js=SCRIPT, isolate_styles=False)
        data = {
            "values": values,
            "low": low,
            "high": high,
            "step": float(chosen.parameter.step or 0.05),
            "title": f"{chosen.label} over the layers",
            "names": [f"Layer {number}" for number in range(layers)],
        }
        told = component(key=f"{key}_curve", data=data, on_drawn_change=lambda: None)
        if told.drawn is not None:
            _set(key, _value(where, list(told.drawn), names))
            st.rerun()
        if key in curves() and _value(where, values, names) != curves()[key]:
            _set(key, _value(where, values, names))
            st.rerun()


def _set(key: str, value: list[Any]) -> None:
    curves()[key] = value


def _value(where: str, values: list[float], names: Mapping[str, str]) -> list[Any]:
    """The value as a recipe has it: a number for each layer, for one kind of module alone where that is wanted."""
    if where == EVERYWHERE:
        return values
    return [{"filter": names[where], "value": values}, {"value": 0.0}]


def _parted(value: Any, names: Mapping[str, str], chosen: Varying, layers: int) -> tuple[str, list[float]]:
    """Take a value apart: where it holds, and a number for each layer."""
    where = EVERYWHERE
    if value and isinstance(value[0], Mapping):
        filtered = value[0].get("filter")
        where = next((place for place, name in names.items() if name == filtered), EVERYWHERE)
        value = _list(value[0]["value"])
    given = value or [chosen.value]
    return where, [round(gradients.at(given, "", layer / max(1, layers - 1)), 6) for layer in range(layers)]


def shapes(value: float, layers: int) -> dict[str, list[float]]:
    """Curves to start at, made of the setting's own value: flat, a ramp up or down, a valley, a hill."""
    steps = [layer / max(1, layers - 1) for layer in range(layers)]
    made = {
        "Flat": [1.0 for _ in steps],
        "Rising": steps,
        "Falling": [1 - step for step in steps],
        "Valley": [abs(2 * step - 1) for step in steps],
        "Hill": [1 - abs(2 * step - 1) for step in steps],
    }
    return {name: [round(value * share, 4) for share in shape] for name, shape in made.items()}


def _bounds(chosen: Varying, values: Sequence[float]) -> tuple[float, float]:
    """The range that the curve is drawn in: the parameter's, where it has one, else what is there with some room."""
    low, high = chosen.parameter.low, chosen.parameter.high
    room = max(1.0, *(abs(value) * 1.5 for value in values))
    return (min(0.0, *values) if low is None else float(low)), (room if high is None else float(high))


@st.cache_data(ttl=60, max_entries=8, show_spinner=False)
def modules(base: str) -> tuple[dict[str, str], int]:
    """What a model calls its attention and its MLP, where its layers have such, and how many layers it has."""
    try:
        checkpoint = open_checkpoint(base)
    except InputError:
        return {}, 1
    inside = set[str]()
    layers = set[str]()
    for name in checkpoint.tensors:
        parts = name.split(".")
        number = next((index for index, part in enumerate(parts) if part.isdigit()), None)
        if number is not None and number + 1 < len(parts):
            layers.add(parts[number])
            inside.add(parts[number + 1])
    found = {}
    for place, words in PARTS.items():
        fitting = sorted(name for name in inside if any(word in name for word in words) and "norm" not in name)
        if len(fitting) == 1:
            found[place] = f".{fitting[0]}."
    return found, max(1, len(layers))
