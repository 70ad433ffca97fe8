"""A merge method's controls, drawn from how the registry describes its parameters; no method is named here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import streamlit as st

from nmerge_core.family import Family
from nmerge_core.merging.recipe.method_part import MethodPart, is_composed
from nmerge_core.merging.recipe.registry import Method
from nmerge_core.parameters.inputs import Input, NeuronLists, Several
from nmerge_core.parameters.parameter import Parameter
from nmerge_core.parameters.values import Choice, Flag, Names, Number, Solved, Text
from pages.shared.frame.address import forget_endless
from pages.shared.frame.settings import KEPT
from pages.shared.frame.text import shortened, verbatim
from pages.shared.neurons.groups import Lists, draw_lists
from pages.shared.recipe.controls import joined, of_model, text_key
from pages.shared.recipe.curve import Varying, curves, draw_editor, draw_told, keep_curves
from pages.shared.recipe.model_table import MANY, model_table

COLUMNS = 2
UNSET = "default"  # the placeholder of a parameter that is left unset


@dataclass(frozen=True)
class Drawn:
    """What a form is drawn for: a method, the models and categories it is about, and what the family tells already.

    `known` has values by parameter name, of a per-model parameter one per model; what is typed for one family does not
    stay for another.
    """

    method: Method
    models: Sequence[str]
    categories: Sequence[str]
    known: Mapping[str, Any]
    family: Family


def controls(drawn: Drawn, methods: Mapping[str, Method]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draw every parameter of a method.

    Returns:
        The shared parameters, and those of each model; parameters left unset are in neither.
    """
    shared: dict[str, Any] = {}
    each: list[dict[str, Any]] = [{} for _ in drawn.models]
    own, lent = _sorted(drawn.method, methods)
    _draw(drawn, own, shared, each)
    if varying := _varying(drawn, own, shared, each):
        draw_editor(varying, drawn.family.base)
    keep_curves()
    if lent:
        with st.expander("More parameters", icon=":material/tune:"):
            st.caption("Of the parts above, and of the methods chosen for them; unused ones change nothing.")
            _draw(drawn, lent, shared, each)
    return shared, each


def _varying(
    drawn: Drawn, own: Sequence[Parameter], shared: Mapping[str, Any], each: Sequence[Mapping[str, Any]]
) -> list[Varying]:
    """Say which of the drawn controls may differ over the layers."""
    found = []
    for parameter in own:
        if not isinstance(parameter, Number) or not parameter.varies:
            continue
        values = [
            (f"_{model}", f" of {shortened(model)}", mine) for model, mine in zip(drawn.models, each, strict=True)
        ]
        for ending, whose, given in values if parameter.per_model else [("", "", shared)]:
            value = given.get(parameter.name, parameter.default)
            number = float(value) if isinstance(value, int | float) else float(parameter.default or 0.0)
            key = f"merge_{drawn.method.name}_{parameter.name}{ending}"
            found.append(Varying(key, f"{parameter.title}{whose}", parameter, number))
    return found


def _sorted(method: Method, methods: Mapping[str, Method]) -> tuple[list[Parameter], list[Parameter]]:
    """Part a method's parameters: its own, and those for data or for the methods it is put together from."""
    shown = [parameter for parameter in method.parameters if not isinstance(parameter, Solved | NeuronLists)]
    others = {p.name for other in methods.values() if other.name != method.name for p in other.parameters}
    folded = [p for p in shown if isinstance(p, Input | Text | Names) or (is_composed(method) and p.name in others)]
    return [p for p in shown if p not in folded], folded


def _draw(drawn: Drawn, parameters: Sequence[Parameter], shared: dict[str, Any], each: list[dict[str, Any]]) -> None:
    rows = [p for p in parameters if p.per_model or (isinstance(p, MethodPart) and p.per_category)]
    single = [p for p in parameters if p not in rows]
    for start in range(0, len(single), COLUMNS):
        for column, parameter in zip(st.columns(COLUMNS), single[start : start + COLUMNS], strict=False):
            with column.container(key=_box(drawn, parameter)):
                value = _control(drawn, parameter, parameter.title, f"merge_{drawn.method.name}_{parameter.name}")
            if value is not None:
                shared[parameter.name] = value
    if len(drawn.models) >= MANY and (tabled := [p for p in rows if p.per_model]):
        taken = model_table(drawn.method.name, tabled, drawn.models, drawn.known, drawn.family.name)
        for own, typed in zip(each, taken, strict=True):
            own.update(typed)
        rows = [p for p in rows if p not in tabled]
    for parameter in rows:
        if isinstance(parameter, MethodPart):
            shared |= _groups(drawn, parameter)
            continue
        for own, value in zip(each, _row(drawn, parameter, drawn.models, ""), strict=True):
            if value is not None:
                own[parameter.name] = value


def _box(drawn: Drawn, parameter: Parameter) -> str:
    """The key of what a parameter is drawn in; a step may have one that is called as one of its method's."""
    return f"merge_{drawn.method.name}_{parameter.name}_box" if drawn.method.step else f"merge_{parameter.name}"


def _groups(drawn: Drawn, part: MethodPart) -> dict[str, Any]:
    """Draw what is done with the neurons of each category, and of each list where the method takes lists of them."""
    choices = dict(zip(drawn.categories, _row(drawn, part, drawn.categories, "neurons"), strict=True))
    taken: dict[str, Any] = {}
    for parameter in drawn.method.parameters:
        if isinstance(parameter, NeuronLists):
            lists, of_lists = _lists(drawn, part, parameter)
            taken, choices = {parameter.name: lists} if lists else {}, choices | of_lists
    first, *others = choices.values() or [part.default]
    return taken | {part.name: choices if any(other != first for other in others) else first}


def _lists(drawn: Drawn, part: MethodPart, parameter: NeuronLists) -> tuple[Lists, dict[str, Any]]:
    """Draw the lists of neurons that are groups beside the categories, each with the choice that a category has."""

    def choose(label: str, key: str) -> Any:
        return _part(drawn, part, label, key, drawn.categories, of_list=True)

    return draw_lists(drawn.family, f"merge_{drawn.method.name}_{parameter.name}", parameter.help, choose)


def _row(drawn: Drawn, parameter: Parameter, names: Sequence[str], noun: str) -> list[Any]:
    """Draw a parameter once for each model or category, beside each other."""
    with st.container(key=_box(drawn, parameter), gap="xxsmall"):
        st.markdown(f"**{parameter.title}**", help=parameter.help)
        values = []
        places = [column for _ in names[::COLUMNS] for column in st.columns(COLUMNS)]  # a row for every few
        for index, (column, name) in enumerate(zip(places, names, strict=False)):
            told, full_name = drawn.known.get(parameter.name), verbatim(name) if shortened(name) != name else ""
            mine = parameter.with_(
                help=full_name,
                default=told[index] if told else parameter.default,
            )
            with column:
                key = f"merge_{drawn.method.name}_{parameter.name}_{name}"
                title, others = verbatim(f"{shortened(name)} {noun}".strip()), [each for each in names if each != name]
                values.append(_control(drawn, mine, title, key, told=True, others=others))
    return values


def _control(
    drawn: Drawn, parameter: Parameter, label: str, key: str, *, told: bool = False, others: Sequence[str] = ()
) -> Any:
    """Draw one control and return its value; None where it is left unset.

    One that is `told` has the family's value already; `others` are the further categories of a choice for one.
    """
    default = parameter.default if told else drawn.known.get(parameter.name, parameter.default)
    if isinstance(parameter, MethodPart):
        return _part(drawn, parameter, label, key, others)
    if isinstance(parameter, Number) and parameter.varies and key in curves():
        return draw_told(key, label)
    if isinstance(parameter, Number):
        if parameter.auto:
            if st.toggle(f"{label} auto", default == "auto", key=f"{key}_auto", help=parameter.help, **KEPT):
                return "auto"
            default = (parameter.low or 0.0) + 1.0 if default == "auto" else default
        return _number(parameter, label, key, default)
    if isinstance(parameter, Choice):
        return _choice(parameter.choices, label, key, default, parameter.help)
    if isinstance(parameter, Flag) and default is not None:
        return st.toggle(label, default, key=key, help=parameter.help, **KEPT)
    if isinstance(parameter, Flag):
        words = {"yes": True, "no": False}
        chosen = st.selectbox(label, list(words), None, key=key, help=parameter.help, placeholder=UNSET, **KEPT)
        return words[chosen] if chosen is not None else None
    several = isinstance(parameter, Names | Several)
    default = joined(default) if several else default
    key = text_key(key, drawn.family.name, default)
    text = st.text_input(label, default or "", key=key, help=parameter.help, placeholder=UNSET, **KEPT).strip()
    if several:
        return [name.strip() for name in text.split(",") if name.strip()] or None
    return text or None


def _choice(
    choices: Sequence[str], label: str, key: str, default: str | None, help: str, *, labelled: bool = False
) -> str | None:
    index = choices.index(default) if default is not None else None
    words = [choice.replace("_", " ") for choice in choices]
    seen: Literal["visible", "collapsed"] = "collapsed" if labelled else "visible"
    chosen = st.selectbox(label, words, index, key=key, help=help, placeholder=UNSET, label_visibility=seen, **KEPT)
    return choices[words.index(chosen)] if chosen is not None else None


def _part(
    drawn: Drawn, parameter: MethodPart, label: str, key: str, others: Sequence[str], *, of_list: bool = False
) -> Any:
    """Draw the choice of a word or a method for a part, and its own parameters: a method's are those for all parts
    unless set.

    Neurons can be those of the models of `others`, told by their categories. Those of a list, which has its label, are
    no model's own.
    """
    words = [word for word in parameter.words if not (of_list and word in parameter.of_model)]
    of_others = {of_model(word, each): (word, each) for word in parameter.of_model for each in others}
    choices = (*words, *of_others, *parameter.choices[len(parameter.words) :])
    chosen = _choice(choices, label, key, parameter.default, parameter.help, labelled=of_list)
    if chosen is None:
        return None
    name, whose = of_others.get(chosen, (chosen, None))
    own = {"of": whose} if whose else {}
    shown = [each for each in parameter.parameters_of(name) if not isinstance(each, Solved | Text)]
    if name in parameter.words:
        own |= {each.name: _control(drawn, each, each.title, f"{key}_{name}_{each.name}", told=True) for each in shown}
    elif shown:
        with st.popover("Its own parameters", icon=":material/tune:", key=f"{key}_own"):
            st.caption("Left unset, they are those said below for all parts, else the method's defaults.")
            for each in shown:
                value = _control(drawn, each.with_(default=None), each.title, f"{key}_{name}_{each.name}", told=True)
                if value is not None:
                    own[each.name] = value
    return {"method": name, **own} if own else name


def _number(parameter: Number, label: str, key: str, default: float | None) -> float | None:
    """Draw a slider where the range is known and a value is set, else a number's box."""
    kind = int if parameter.whole else float
    step = kind(parameter.step or 1)
    low, high = (kind(bound) if bound is not None else None for bound in (parameter.low, parameter.high))
    if low is not None and parameter.above_low:
        low += step
    value = kind(default) if default is not None else None
    if value is None or low is None or high is None:
        forget_endless(key)
        shown = "%d" if parameter.whole else "%g"
        return st.number_input(
            label, low, high, value, step, shown, key=key, help=parameter.help, placeholder=UNSET, **KEPT
        )
    return st.slider(label, low, high, value, step, key=key, help=parameter.help, **KEPT)
