"""What a recipe gives for a method: its keys and its parameters, checked."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from nmerge_core.checkpoints.reference import same_model
from nmerge_core.errors import InputError, shown
from nmerge_core.merging.recipe import mergekit_recipe as mergekit
from nmerge_core.merging.recipe.registry import Method, methods, steps

KEYS: tuple[str, ...] = ("merge_method", "base_model", "models", "slices", "parameters", "then", "stages")
KEYS += ("dtype", "out_dtype", "run_dtype", "seed", "tokenizer", "tokenizer_source", "chat_template", "engine")
# mergekit's parameters where they say what a method does anyway: people's recipes have them, so they are left unused.
_WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "int8_mask": (True, False),
    "rescale": (False,),
    "density": (1,),
    "eps": (1e-8,),
}


def known(content: Mapping[str, Any], keys: Iterable[str], where: str, method: Method | None = None) -> None:
    """Check that all keys of a mapping are known; raises InputError that names the nearest, or where a key belongs."""
    keys = tuple(keys)
    for key in content:
        if key not in keys:
            if isinstance(key, str) and key in mergekit.OF_OTHERS:
                raise InputError(f"{where}: key '{key}' is {mergekit.OF_OTHERS[key]}")
            elsewhere = _elsewhere(key, method)
            near = [] if elsewhere else get_close_matches(str(key), keys, 1, 0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(keys) or 'none'}"
            raise InputError(f"{where}: unknown key {shown(key)}{elsewhere}; {hint}")


def _elsewhere(key: Any, method: Method | None) -> str:
    """Say where a key belongs that stands at a wrong place of a recipe; empty where it belongs nowhere."""
    if method and key in method.defaults:
        return f" (it is a parameter: write `parameters: {{{key}: …}}`)"
    if key in KEYS:
        return " (it is no parameter: write it at the top of the recipe)"
    owners = [name for name, each in {**methods(), **steps()}.items() if key in each.defaults]
    theirs = method and method.name in mergekit.METHODS and key in _WITHOUT_EFFECT
    own = f", or {mergekit.elsewhere()} to have mergekit's {method.name}" if method and theirs else ""
    return f" (it is a parameter of {', '.join(owners)}; leave it out here{own})" if owners else ""


def parameters(given: Any, method: Method, where: str, *, per_model: bool = False) -> dict[str, Any]:
    """Return checked parameters of a method, those beside one model if `per_model`; raises InputError."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(f"recipe, key '{where}': expected a mapping of parameters, found {type(given).__name__}")
    allowed = [parameter for parameter in method.parameters if parameter.per_model or not per_model]
    names = [parameter.name for parameter in allowed]
    for key in given:
        if key not in names and key in {parameter.name for parameter in method.parameters}:
            raise InputError(f"recipe, {where} ({method.name}): '{key}' is said once for all models, in 'parameters'")
    given = {key: value for key, value in given.items() if key in names or not _is_without_effect(key, value)}
    known(given, names, f"recipe, {where} ({method.name})", method)
    return {
        parameter.name: parameter.check(given[parameter.name], f"recipe, key '{where}.{parameter.name}'")
        for parameter in allowed
        if given.get(parameter.name) is not None  # a key that was left blank is a key left out
    }


def _is_without_effect(key: Any, value: Any) -> bool:
    return key in _WITHOUT_EFFECT and isinstance(value, bool | int | float) and value in _WITHOUT_EFFECT[key]


def is_base(model: str, base: str | None, method: Method) -> bool:
    """Tell whether a model is the base, whose difference from itself is nothing to merge."""
    # mergekit's examples list the base among the models.
    return method.takes_base and base is not None and same_model(model, base)
