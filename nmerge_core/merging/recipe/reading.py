"""mergekit's YAML as people have it, read and checked against the method's parameters."""

from collections.abc import Mapping, Sequence
from os import PathLike
from os.path import expanduser, isfile
from pathlib import Path
from typing import Any

from nmerge_core.checkpoints.reference import found_from
from nmerge_core.errors import InputError, short, shown, unknown
from nmerge_core.files.yaml_file import plain, read_mappings
from nmerge_core.merging.recipe import mergekit_recipe as mergekit
from nmerge_core.merging.recipe.given import KEYS, is_base, known, parameters
from nmerge_core.merging.recipe.reading_slices import read_slices
from nmerge_core.merging.recipe.recipe import DTYPES, ModelEntry, Recipe
from nmerge_core.merging.recipe.registry import LISTING, Method, find_method, methods, steps
from nmerge_core.merging.recipe.steps import read_steps
from nmerge_core.merging.recipe.template_choice import read_template_choice
from nmerge_core.merging.recipe.tokenizer_choice import read_choice
from nmerge_core.number_format import AUTO, RUN_DTYPES

Source = str | PathLike[str] | Mapping[str, Any]  # a YAML file, YAML text, or what stands in it


_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth")
_CALLED = {"fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp32": "float32", "float": "float32"}


def load_recipe(source: Source) -> Recipe:
    """Read a recipe from a YAML file, YAML text or a mapping.

    Raises:
        InputError: not YAML, an unknown key (the nearest known one is named), a missing key, or a value out of range.
    """
    content = read_content(source)
    _check_engine(content.get("engine", "nmerge"))
    if content.get("stages") is not None:
        raise InputError("recipe, key 'stages': expected a recipe of one stage, found several; merge them one by one")
    for key in content:
        if key in mergekit.KEYS and key not in KEYS:
            raise InputError(f"recipe: key '{key}' is mergekit's own; {mergekit.elsewhere()}, or leave the key out")
    name = str(content.get("merge_method", ""))
    method = find_method(name)
    known(content, KEYS, "recipe", method)
    if method is None:
        raise _no_method(name)
    base = content.get("base_model")
    if base is not None:
        mergekit.reference(base, "base_model")
    if method.base == "needed" and not base:
        raise InputError(f"recipe, key 'base_model': {name} merges differences from a base; name its folder or Hub id")
    slices = read_slices(content, base, method)
    if slices:
        named = dict.fromkeys(source.model for each in slices for source in each.models)
        base = slices[0].base.model if slices[0].base else None
        entries = tuple(ModelEntry(model, {}) for model in named)
    else:
        found = _entries(content.get("models"), method)
        entries = tuple(entry for entry in found if not is_base(entry.model, base, method))
    if not entries:
        raise InputError("recipe, key 'models': expected at least one model besides the base, found none")
    references = [*([base] if base else []), *(entry.model for entry in entries)]
    return Recipe(
        merge_method=name,
        base_model=base,
        models=entries,
        parameters=parameters(content.get("parameters"), method, "parameters"),
        slices=slices,
        then=read_steps(content.get("then"), method, base, slices=bool(slices)),
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

    Several documents are one recipe in stages (`in_stages`).

    Raises:
        InputError: it cannot be read, is not YAML, has a key twice, or is no mapping.
    """
    if isinstance(source, Mapping):
        return {key: plain(value) for key, value in source.items()}
    file = file_of(source)
    if file is not None:
        _check_no_model(file)
    content = in_stages(read_mappings(file or str(source), KEYS, "recipe"))
    if file is None:
        return content
    given = content.get("stages")
    made: Mapping[str, Any] = given if isinstance(given, Mapping) else {}

    def found(name: str) -> str:
        return name if name in made else found_from(name, file.parent)

    stages = {"stages": {name: mergekit.renamed(each, found) for name, each in made.items()}} if made else {}
    renamed: Mapping[str, Any] = mergekit.renamed(content, found)
    return {**renamed, **stages}


def _check_no_model(file: Path) -> None:
    """Raise InputError where a model is named in the place of a recipe."""
    own = file / "nmerge_recipe.yaml"
    if isfile(own):
        found = f"a merge; its own recipe is {short(str(own))}"
    elif isfile(file / "config.json"):
        found = "a model; name it in a recipe, under 'models'"
    elif file.suffix in _WEIGHTS:
        found = "weights; name the folder that they are in, in a recipe, under 'models'"
    else:
        return
    raise InputError(f"{short(str(file))}: expected a recipe, a YAML file with merge_method and models; found {found}")


def in_stages(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the recipe of a file with several, as mergekit-multi has them, each with a name but the last of all.

    Raises:
        InputError: a name is missing or there twice.
    """
    *others, last = documents
    if not others:
        return dict(last)
    if unnamed := [each for each in documents if each.get("name") is None]:
        last = unnamed[0]
    if len(unnamed) > 1:
        raise InputError("recipe: expected a 'name' in every document but one, found several without")
    stages: dict[str, Any] = {}
    for each in documents:
        if each is last:
            continue
        name = each["name"]
        if not isinstance(name, str) or name in stages:
            raise InputError(f"recipe, key 'name': expected a text, another in each document, found {shown(name)}")
        stages[name] = {key: value for key, value in each.items() if key != "name"}
    return {**{key: value for key, value in last.items() if key != "name"}, "stages": stages}


def _no_method(name: str) -> InputError:
    if name in mergekit.METHODS:
        return InputError(f"recipe, key 'merge_method': '{name}' is one of mergekit's methods; {mergekit.elsewhere()}")
    if name in steps():
        expected = f"a method whose merge it changes: write `then: [{name}]` beside one"
        return InputError(f"recipe, key 'merge_method': '{name}' is a step; expected {expected}")
    available = methods()
    if not name:
        return InputError(f"recipe: the key 'merge_method' is missing; expected one of {', '.join(available)}")
    told = unknown(name, (*available, *mergekit.METHODS), LISTING)
    return InputError(f"recipe, key 'merge_method': {told}")


def _entries(models: Any, method: Method) -> list[ModelEntry]:
    if not isinstance(models, list):
        raise InputError(f"recipe, key 'models': expected a list of {{model: …}}, found {type(models).__name__}")
    entries = []
    for index, entry in enumerate(models):
        where = f"models[{index}]"
        if not isinstance(entry, Mapping) or entry.get("model") is None:
            expected = "expected {model: path-or-id, parameters: …}"
            raise InputError(f"recipe, key '{where}': {expected}, found {shown(entry)}")
        known(entry, ("model", "parameters"), f"recipe, {where}", method)
        model = mergekit.reference(entry["model"], f"{where}.model")
        entries.append(ModelEntry(model, parameters(entry.get("parameters"), method, where, per_model=True)))
    return entries


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
