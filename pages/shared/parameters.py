"""A merge method's controls, drawn from how the registry describes its parameters; no method is named here."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import streamlit as st

from nmerge_core.merging.recipe.registry import Method, Parameter

COLUMNS = 3
UNSET = "default"  # the placeholder of a parameter that is left unset


def controls(
    method: Method,
    methods: Mapping[str, Method],
    models: Sequence[str],
    categories: Sequence[str],
    known: Mapping[str, Any],
    family: str,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draw every parameter of a method.

    Args:
        method: The method.
        methods: All methods by name.
        models: What the pages call the models that are merged.
        categories: The categories a per-category parameter has a choice for.
        known: Values the family already tells, by parameter name; of a per-model parameter a value per model.
        family: The family's name; what is typed for one family does not stay for another.

    Returns:
        The shared parameters, and those of each model; parameters left unset are in neither.
    """
    shared: dict[str, Any] = {}
    each: list[dict[str, Any]] = [{} for _ in models]
    own, lent = _sorted(method, methods)
    _draw(method, own, models, categories, known, family, shared, each)
    if lent:
        with st.expander("More parameters", icon=":material/tune:"):
            st.caption("Of the parts above, and of the methods chosen for them; unused ones change nothing.")
            _draw(method, lent, models, categories, known, family, shared, each)
    return shared, each


def name_of(parameter: str) -> str:
    """Write a parameter's name for reading: Mask ratio, λ1."""
    words = parameter.replace("lambda_", "λ").replace("lambda", "λ").replace("_", " ")
    return words if words.startswith("λ") else words.capitalize()


def _sorted(method: Method, methods: Mapping[str, Method]) -> tuple[list[Parameter], list[Parameter]]:
    """Part a method's parameters: its own, and those for data or for the methods it is put together from."""
    drawn = [parameter for parameter in method.parameters if not parameter.advanced]
    choices = {choice for parameter in drawn for choice in parameter.choices}
    others = {p.name for name, other in methods.items() if name != method.name for p in other.parameters}
    folded = [
        p for p in drawn if p.kind in ("path", "text", "names") or (choices & methods.keys() and p.name in others)
    ]
    return [p for p in drawn if p not in folded], folded


def _draw(
    method: Method,
    parameters: Sequence[Parameter],
    models: Sequence[str],
    categories: Sequence[str],
    known: Mapping[str, Any],
    family: str,
    shared: dict[str, Any],
    each: list[dict[str, Any]],
) -> None:
    single = [p for p in parameters if not p.per_model and not p.per_category]
    for start in range(0, len(single), COLUMNS):
        for column, parameter in zip(st.columns(COLUMNS), single[start : start + COLUMNS], strict=False):
            with column.container(key=f"merge_{parameter.name}"):
                value = _control(parameter, name_of(parameter.name), f"{method.name}_{parameter.name}", known, family)
            if value is not None:
                shared[parameter.name] = value
    for parameter in parameters:
        if parameter.per_category:
            values = _row(method, parameter, categories, "neurons", {}, family)
            shared[parameter.name] = (
                next(iter(values)) if len(set(values)) == 1 else dict(zip(categories, values, strict=True))
            )
        elif parameter.per_model:
            values = _row(method, parameter, models, "", known, family)
            for own, value in zip(each, values, strict=True):
                if value is not None:
                    own[parameter.name] = value


def _row(
    method: Method, parameter: Parameter, names: Sequence[str], noun: str, known: Mapping[str, Any], family: str
) -> list[Any]:
    """Draw a parameter once for each model or category, beside each other."""
    with st.container(key=f"merge_{parameter.name}", gap="xxsmall"):
        st.markdown(f"**{name_of(parameter.name)}**", help=parameter.help)
        unexplained = replace(parameter, help="")  # the heading has told it
        values = []
        for index, (column, name) in enumerate(zip(st.columns(max(COLUMNS, len(names))), names, strict=False)):
            mine = {parameter.name: known[parameter.name][index]} if parameter.name in known else {}
            with column:
                key = f"{method.name}_{parameter.name}_{name}"
                values.append(_control(unexplained, f"{name} {noun}", key, mine, family))
    return values


def _control(parameter: Parameter, label: str, key: str, known: Mapping[str, Any], family: str) -> Any:
    """Draw one control and return its value; None where it is left unset."""
    default = known.get(parameter.name, parameter.default)
    key = f"merge_{key}"
    if parameter.auto:
        if st.toggle(f"{label} auto", default == "auto", key=f"{key}_auto", help=parameter.help):
            return "auto"
        default = (parameter.low or 0.0) + 1.0 if default == "auto" else default
    if parameter.kind in ("float", "int"):
        return _number(parameter, label, key, default)
    if parameter.kind == "choice":
        index = parameter.choices.index(default) if default is not None else None
        choices = [choice.replace("_", " ") for choice in parameter.choices]
        chosen = st.selectbox(label, choices, index, key=key, help=parameter.help, placeholder=UNSET)
        return parameter.choices[choices.index(chosen)] if chosen is not None else None
    if parameter.kind == "flag" and default is not None:
        return st.toggle(label, default, key=key, help=parameter.help)
    if parameter.kind == "flag":
        words = {"yes": True, "no": False}
        chosen = st.selectbox(label, list(words), None, key=key, help=parameter.help, placeholder=UNSET)
        return words[chosen] if chosen is not None else None
    if parameter.kind == "names":
        default = ", ".join(default or ())
    # A box keeps its text when only its default changes, so its key changes with the family and what that tells.
    key = f"{key}_{family}_{hashlib.sha256(str(default).encode()).hexdigest()[:8]}"
    text = st.text_input(label, default or "", key=key, help=parameter.help, placeholder=UNSET).strip()
    if parameter.kind == "names":
        return [name.strip() for name in text.split(",") if name.strip()] or None
    return text or None


def _number(parameter: Parameter, label: str, key: str, default: float | None) -> float | None:
    """Draw a slider where the range is known and a value is set, else a number's box."""
    kind = float if parameter.kind == "float" else int
    step = kind(parameter.step or 1)
    low, high = (kind(bound) if bound is not None else None for bound in (parameter.low, parameter.high))
    if low is not None and parameter.above_low:
        low += step
    value = kind(default) if default is not None else None
    if value is None or low is None or high is None:
        shown = "%g" if kind is float else "%d"
        return st.number_input(label, low, high, value, step, shown, key=key, help=parameter.help, placeholder=UNSET)
    return st.slider(label, low, high, value, step, key=key, help=parameter.help)
