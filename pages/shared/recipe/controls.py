"""A recipe that stands in the Merge page's controls: what they are set to so that they make it again."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from nmerge_core.errors import InputError
from nmerge_core.family import Family, Member
from nmerge_core.merging.recipe.method_part import MethodPart, word_of
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.recipe.registry import Method
from nmerge_core.number_format import AUTO
from nmerge_core.parameters.inputs import NeuronLists, Several
from nmerge_core.parameters.parameter import Parameter
from nmerge_core.parameters.values import Choice, Flag, Names, Number, Solved, Text
from pages.shared.frame.family import full
from pages.shared.neurons.groups import key_of
from pages.shared.recipe.curve import CURVES

State = dict[str, Any]
THEN = "merge_then"  # the key of the control that chooses steps


def text_key(key: str, family: str, default: object) -> str:
    """The key of a box for text: it keeps its text when only its default changes, so the key changes with that."""
    return f"{key}_{family}_{hashlib.sha256(str(default).encode()).hexdigest()[:8]}"


def joined(names: Sequence[str] | None) -> str:
    """Names as a box for several has them."""
    return ", ".join(names or ())


def of_model(word: str, category: str) -> str:
    """What a choice that says of which model is called: own of math."""
    return f"{word} of {category}"


def models_key(method: Method) -> str:
    """Return the key of the control that chooses models: methods that merge as many share it."""
    return "merge_models" if method.most is None else f"merge_models_{method.most}"


def control_states(
    recipe: Recipe, family: Family, known: Mapping[str, Any], of_steps: Mapping[str, Mapping[str, Any]]
) -> State:
    """Return what the controls of the Merge page are set to so that they make a recipe, by their keys.

    Args:
        recipe: Of one of our own methods.
        family: Whose models it merges.
        known: What the family tells of parameters that name data, by name.
        of_steps: The same for each step, by its name.

    Raises:
        InputError: The controls have no place for something of the recipe.
    """
    if recipe.slices:
        raise InputError("The controls have no place for slices.")
    members = members_of(recipe, family)
    if recipe.run_dtype != AUTO:
        raise InputError(f"The controls have no place for 'run_dtype: {recipe.run_dtype}'.")
    own_names = {full(member.reference): member.reference for member in family.members}
    tokenizer = recipe.content.get("tokenizer")
    if not isinstance(tokenizer, str | None):
        raise InputError("The controls have no place for a tokenizer with tokens of its own.")
    speaker = recipe.content.get("chat_template")
    speaker = own_names.get(full(str(speaker)), speaker)
    if speaker not in (None, "auto", "base", *own_names.values()):
        raise InputError("The controls have no place for a chat template of a file.")
    states: State = {
        CURVES: {},
        "merge_chat_template": speaker,
        "merge_method": recipe.merge_method,
        models_key(recipe.method): [member.label for member in members],
        "merge_dtype": recipe.dtype,
        "merge_tokenizer": tokenizer and own_names.get(full(tokenizer), tokenizer),
        "merge_seed": recipe.seed,
    }
    of_lists: dict[str, str] = {}  # the control of each list of neurons
    for parameter in recipe.method.parameters:
        if isinstance(parameter, NeuronLists):
            lists = states[key_of(family.name)] = {**(recipe.parameters.get(parameter.name) or {})}
            of_lists = {name: f"merge_{recipe.merge_method}_{parameter.name}_{name}" for name in lists}
    for parameter in recipe.method.parameters:
        key, shared = f"merge_{recipe.merge_method}_{parameter.name}", recipe.parameters.get(parameter.name)
        if isinstance(parameter, Solved):
            if shared is not None:
                raise InputError(f"The controls have no place for '{parameter.name}', which the method solves.")
        elif isinstance(parameter, NeuronLists):
            continue  # as above
        elif parameter.per_model:
            told = known.get(parameter.name) or [parameter.default] * len(members)
            for member, entry, default in zip(members, recipe.models, told, strict=True):
                value = entry.parameters.get(parameter.name, shared)
                _join(states, _state(parameter, f"{key}_{member.label}", value, family.name, default))
        elif isinstance(parameter, MethodPart) and parameter.per_category:
            categories = [member.category or member.label for member in members]
            for group, own_key in ({each: f"{key}_{each}" for each in categories} | of_lists).items():
                value = parameter.of_category(shared, group)
                if (whose := parameter.whose(value)) and whose not in categories:
                    raise InputError(f"The recipe has neurons of {whose}, which is no category of its models.")
                _join(states, _state(parameter, own_key, value, family.name, parameter.default))
        else:
            default = known.get(parameter.name, parameter.default)
            _join(states, _state(parameter, key, shared, family.name, default))
    if recipe.method.takes_base:
        states[THEN] = [step.step for step in recipe.then]
    if len({step.step for step in recipe.then}) < len(recipe.then):
        raise InputError("The controls have each step once.")
    for step in recipe.then:
        for parameter in step.method.parameters:
            key, value = f"merge_{step.step}_{parameter.name}", step.parameters.get(parameter.name)
            default = of_steps[step.step].get(parameter.name, parameter.default)
            _join(states, _state(parameter, key, value, family.name, default))
    return states


def _join(states: State, more: State) -> None:
    """Add the states of a control to those of others, the curves to the curves."""
    states.update({**more, CURVES: {**states[CURVES], **more.get(CURVES, {})}})


def members_of(recipe: Recipe, family: Family) -> list[Member]:
    """Return the family's models that a recipe merges, in its order.

    Raises:
        InputError: Its base or a model is not the family's.
    """
    by_reference = {full(model.reference): model for model in family.models}
    if recipe.method.takes_base and full(str(recipe.base_model)) != full(family.base):
        raise InputError(f"The recipe's base is {recipe.base_model}, the family's is {family.base}.")
    for reference in recipe.references:
        if full(reference) not in by_reference:
            raise InputError(f"The recipe merges {reference}, which is no fine-tune of the family.")
    return [by_reference[full(reference)] for reference in recipe.references]


def _state(parameter: Parameter, key: str, value: Any, family: str, default: Any) -> State:
    """What one control, or a part's several, are set to for a value; None leaves it at where it starts."""
    if isinstance(parameter, MethodPart):
        return _part_state(parameter, key, value, family)
    if isinstance(parameter, Number):
        value = default if value is None else value
        if isinstance(value, list) and parameter.varies:
            return {CURVES: {key: value}}
        if isinstance(value, list | dict | tuple):
            raise InputError(f"The controls have one number for '{parameter.name}', the recipe has several.")
        slides = parameter.low is not None and parameter.high is not None and isinstance(value, int | float)
        if slides and not parameter.low <= value <= parameter.high:
            raise InputError(f"The slider of '{parameter.name}' ends at {parameter.high:g}; the recipe has {value:g}.")
        if not parameter.auto:
            return {key: value}
        return {f"{key}_auto": True} if value == "auto" else {f"{key}_auto": False, key: value}
    if isinstance(parameter, Choice):
        value = parameter.default if value is None else value
        return {key: value and value.replace("_", " ")}
    if isinstance(parameter, Flag):
        value = parameter.default if value is None else value
        return {key: value if parameter.default is not None or value is None else ("yes" if value else "no")}
    several = isinstance(parameter, Names | Several)
    default = joined(default) if several else default
    value = joined(value) if several else value
    return {text_key(key, family, default): value or ""}


def _part_state(parameter: MethodPart, key: str, value: Any, family: str) -> State:
    value = parameter.default if value is None else value
    if value is None:
        return {key: None}
    name, whose, own = word_of(value), parameter.whose(value), parameter.own(value)
    states: State = {CURVES: {}, key: (of_model(name, whose) if whose else name).replace("_", " ")}
    for each in parameter.parameters_of(name) if own else ():
        if each.name in own and not isinstance(each, Text):
            _join(states, _state(each.with_(default=None), f"{key}_{name}_{each.name}", own[each.name], family, None))
    return states
