"""mergekit's YAML as people have it, read and checked against the method's parameters."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from os import PathLike
from os.path import expanduser
from pathlib import Path
from typing import Any

from nmerge_core.checkpoints.reference import found_from, same_model
from nmerge_core.errors import InputError, shown
from nmerge_core.merging.recipe import mergekit_recipe as mergekit
from nmerge_core.merging.recipe.recipe import DTYPES, ModelEntry, Recipe
from nmerge_core.merging.recipe.registry import Method, find_method, methods
from nmerge_core.merging.recipe.template_choice import read_template_choice
from nmerge_core.merging.recipe.tokenizer_choice import read_choice
from nmerge_core.number_format import AUTO, RUN_DTYPES
from nmerge_core.yaml_file import plain, read_mapping

Source = str | PathLike[str] | Mapping[str, Any]  # a YAML file, YAML text, or what stands in it

_KEYS: tuple[str, ...] = ("merge_method", "base_model", "models", "parameters", "dtype", "out_dtype")
_KEYS += ("run_dtype", "seed", "tokenizer", "tokenizer_source", "chat_template", "engine")
# mergekit's parameters where they say what a method does anyway: people's recipes have them, so they are left unused.
_WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "int8_mask": (True, False),
    "rescale": (False,),
    "density": (1,),
    "eps": (1e-8,),
}

_CALLED = {"fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp32": "float32", "float": "float32"}


def load_recipe(source: Source) -> Recipe:
    """Read a recipe from a YAML file, YAML text or a mapping.

    Raises:
        InputError: not YAML, an unknown key (the nearest known one is named), a missing key, or a value out of range.
    """
    content = read_content(source)
    _check_engine(content.get("engine", "nmerge"))
    for key in content:
        if key in mergekit.KEYS and key not in _KEYS:
            raise InputError(f"recipe: key '{key}' is mergekit's own; {mergekit.elsewhere()}, or leave the key out")
        if key in mergekit.OF_OTHERS:
            raise InputError(f"recipe: key '{key}' is {mergekit.OF_OTHERS[key]}")
    name = str(content.get("merge_method", ""))
    method = find_method(name)
    _known(content, _KEYS, "recipe", method)
    if method is None:
        raise _no_method(name)
    base = content.get("base_model")
    if base is not None:
        mergekit.reference(base, "base_model")
    if method.base == "needed" and not base:
        raise InputError(f"recipe, key 'base_model': {name} merges differences from a base; name its folder or Hub id")
    entries = tuple(entry for entry in _entries(content.get("models"), method) if not _is_base(entry, base, method))
    if not entries:
        raise InputError("recipe, key 'models': expected at least one model besides the base, found none")
    references = [*([base] if base else []), *(entry.model for entry in entries)]
    return Recipe(
        merge_method=name,
        base_model=base,
        models=entries,
        parameters=_parameters(content.get("parameters"), method, "parameters"),
        # mergekit computes in `dtype` and writes `out_dtype`; here arithmetic is float32 whatever is written.
        dtype=_dtype(content, "out_dtype") or _dtype(content, "dtype"),
        run_dtype=_dtype(content, "run_dtype", RUN_DTYPES) or AUTO,
        seed=_seed(content.get("seed", 0)),
        tokenizer=read_choice(content, references),
        chat_template=read_template_choice(content, references),
        folder=file.parent if (file := file_of(source)) else None,
    )


def file_of(source: Source) -> Path | None:
    """Return the file that a recipe or a sweep is read from; None for YAML text or a mapping."""
    if isinstance(source, str) and "\n" not in source and source.endswith((".yaml", ".yml")):
        return Path(expanduser(source))
    return Path(expanduser(source)) if isinstance(source, PathLike) else None


def read_content(source: Source) -> Mapping[str, Any]:
    """Return what stands in a recipe, as YAML has it: of a YAML file, YAML text, or a mapping.

    Models are named as they are found: of a file also from its own folder (`reference.found_from`).

    Raises:
        InputError: it cannot be read, is not YAML, has a key twice, or is no mapping.
    """
    if isinstance(source, Mapping):
        return {key: plain(value) for key, value in source.items()}
    file = file_of(source)
    if file is None:
        return read_mapping(str(source), _KEYS, "recipe")
    found: Mapping[str, Any] = mergekit.renamed(read_mapping(file, _KEYS), lambda name: found_from(name, file.parent))
    return found


def _no_method(name: str) -> InputError:
    if name in mergekit.METHODS:
        return InputError(f"recipe, key 'merge_method': '{name}' is one of mergekit's methods; {mergekit.elsewhere()}")
    available = methods()
    near = get_close_matches(name.casefold(), (*available, *mergekit.METHODS), 1)
    found = f"found {shown(name)}" + (f"; did you mean '{near[0]}'?" if near else "") if name else "the key is missing"
    return InputError(f"recipe, key 'merge_method': expected one of {', '.join(available)}; {found}")


def _known(content: Mapping[str, Any], keys: Iterable[str], where: str, method: Method | None = None) -> None:
    keys = tuple(keys)
    for key in content:
        if key not in keys:
            elsewhere = _elsewhere(key, method)
            near = [] if elsewhere else get_close_matches(str(key), keys, 1, 0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(keys) or 'none'}"
            raise InputError(f"{where}: unknown key {shown(key)}{elsewhere}; {hint}")


def _elsewhere(key: Any, method: Method | None) -> str:
    """Say where a key belongs that stands at a wrong place of a recipe; empty where it belongs nowhere."""
    if method and key in method.defaults:
        return f" (it is a parameter: write `parameters: {{{key}: …}}`)"
    if key in _KEYS:
        return " (it is no parameter: write it at the top of the recipe)"
    owners = [name for name, each in methods().items() if key in each.defaults]
    theirs = method and method.name in mergekit.METHODS and key in _WITHOUT_EFFECT
    own = f", or {mergekit.elsewhere()} to have mergekit's {method.name}" if method and theirs else ""
    return f" (it is a parameter of {', '.join(owners)}; leave it out here{own})" if owners else ""


def _entries(models: Any, method: Method) -> list[ModelEntry]:
    if not isinstance(models, list):
        raise InputError(f"recipe, key 'models': expected a list of {{model: …}}, found {type(models).__name__}")
    entries = []
    for index, entry in enumerate(models):
        where = f"models[{index}]"
        if not isinstance(entry, Mapping) or entry.get("model") is None:
            expected = "expected {model: path-or-id, parameters: …}"
            raise InputError(f"recipe, key '{where}': {expected}, found {shown(entry)}")
        _known(entry, ("model", "parameters"), f"recipe, {where}", method)
        model = mergekit.reference(entry["model"], f"{where}.model")
        entries.append(ModelEntry(model, _parameters(entry.get("parameters"), method, where, per_model=True)))
    return entries


def _is_base(entry: ModelEntry, base: str | None, method: Method) -> bool:
    # mergekit's examples list the base among the models; its difference from itself is nothing to merge.
    return method.takes_base and base is not None and same_model(entry.model, base)


def _parameters(given: Any, method: Method, where: str, *, per_model: bool = False) -> dict[str, Any]:
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
    _known(given, names, f"recipe, {where} ({method.name})", method)
    return {
        parameter.name: parameter.check(given[parameter.name], f"recipe, key '{where}.{parameter.name}'")
        for parameter in allowed
        if given.get(parameter.name) is not None  # a key that was left blank is a key left out
    }


def _is_without_effect(key: Any, value: Any) -> bool:
    return key in _WITHOUT_EFFECT and isinstance(value, bool | int | float) and value in _WITHOUT_EFFECT[key]


def _check_engine(engine: Any) -> None:
    if engine == mergekit.ENGINE:
        raise InputError(
            "recipe, key 'engine': expected a recipe for NMerge's own methods (engine: nmerge), found one for mergekit"
        )
    if engine != "nmerge":
        raise InputError(f"recipe, key 'engine': expected nmerge or mergekit, found {shown(engine)}")


def _dtype(content: Mapping[str, Any], key: str, known: Sequence[str] = tuple(DTYPES)) -> str | None:
    dtype = content.get(key)
    if isinstance(dtype, str):
        dtype = dtype.removeprefix("torch.")
    if dtype is not None and (not isinstance(dtype, str) or dtype not in known):
        hint = f"; write {_CALLED[dtype]}" if isinstance(dtype, str) and _CALLED.get(dtype) in known else ""
        raise InputError(f"recipe, key '{key}': expected one of {', '.join(known)}; found {shown(dtype)}{hint}")
    return dtype


def _seed(seed: Any) -> int:
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise InputError(f"recipe, key 'seed': expected a whole number from 0, found {shown(seed)}")
    return seed
