"""mergekit's YAML as people have it: read, checked against the method's parameters, resolved, and written again."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from nmerge_core.errors import InputError
from nmerge_core.inputs import Places, find_path
from nmerge_core.merging.recipe import mergekit_recipe as mergekit
from nmerge_core.merging.recipe.method_part import MethodPart
from nmerge_core.merging.recipe.prepared import NEURONS_FOLDER, Prepared
from nmerge_core.merging.recipe.registry import Method, find_method, methods, named
from nmerge_core.merging.recipe.tokenizer_choice import TokenizerChoice, read_choice
from nmerge_core.merging.recipe.values import Values
from nmerge_core.number_format import AUTO, RUN_DTYPES
from nmerge_core.parameters import Choice, Flag, Number, Parameter, Solved

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
ENGINE_VERSION = 1  # raised when the engine writes other bytes for the same recipe
_KEYS: tuple[str, ...] = ("merge_method", "base_model", "models", "parameters", "dtype", "out_dtype")
_KEYS += ("run_dtype", "seed", "tokenizer", "tokenizer_source", "engine")
# mergekit keys that change how it computes but not what: its examples have them, so they are taken and left unused.
_WITHOUT_EFFECT = ("int8_mask",)


@dataclass(frozen=True)
class ModelEntry:
    """One model of a recipe with the parameters given beside it."""

    model: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A checked recipe; `parameters` holds what was written under it, defaults are filled in by `values`.

    `dtype` is the format of what is written (the donor's if None), `run_dtype` that of models that are run on the way.
    `folder` is that of the file it came from: its relative paths may start there.
    """

    merge_method: str
    base_model: str | None
    models: tuple[ModelEntry, ...]
    parameters: Mapping[str, Any]
    dtype: str | None = None
    run_dtype: str = AUTO
    seed: int = 0
    tokenizer: TokenizerChoice | None = None
    folder: Path | None = field(default=None, compare=False)

    @property
    def method(self) -> Method:
        """The method this recipe names."""
        return named(self.merge_method)

    @property
    def references(self) -> tuple[str, ...]:
        """The models that are merged, in order; the base is not among them."""
        return tuple(entry.model for entry in self.models)

    @property
    def defaults(self) -> dict[str, Any]:
        """The method's default of every parameter."""
        return self.method.defaults

    def values(self) -> Values:
        """Resolve every parameter: beside a model, else under `parameters`, else the default."""
        shared, each = {}, {}
        for parameter in self.method.parameters:
            default = self.parameters.get(parameter.name, parameter.default)
            if parameter.per_model:
                each[parameter.name] = tuple(entry.parameters.get(parameter.name, default) for entry in self.models)
            else:
                shared[parameter.name] = default
        return Values(self.merge_method, shared | {"seed": self.seed}, each)

    @property
    def runs_models(self) -> bool:
        """Whether models are run on texts or tasks before they are merged."""
        return self.method.solves(self.values()) or self.method.searches(self.values())

    @cached_property
    def content(self) -> dict[str, Any]:
        """What stands in its YAML, every default filled in."""
        values = self.values()
        beside = [name for name in values.each if len(set(map(repr, values.each[name]))) > 1]
        shared = {}
        for parameter in sorted(self.method.parameters, key=lambda parameter: isinstance(parameter, Solved)):
            each = values.each.get(parameter.name)
            value = each[0] if each else values.shared[parameter.name]
            if parameter.name not in beside and value is not None:
                shared[parameter.name] = list(value) if isinstance(value, tuple) else value
        models = []
        for index, entry in enumerate(self.models):
            own = {name: values.each[name][index] for name in beside if values.each[name][index] is not None}
            models.append({"model": entry.model, **({"parameters": own} if own else {})})
        content: dict[str, Any] = {"merge_method": self.merge_method}
        if self.base_model:
            content["base_model"] = self.base_model
        content |= {"models": models, "parameters": shared}
        if self.dtype:
            content["dtype"] = self.dtype
        if self.run_dtype != AUTO:
            content["run_dtype"] = self.run_dtype
        if self.tokenizer:
            content["tokenizer"] = self.tokenizer.content()
        return content | {"seed": self.seed}

    @cached_property
    def yaml(self) -> str:
        """The recipe as YAML; reading it again gives the same merge."""
        return mergekit.write_yaml(self.content)

    @property
    def brief(self) -> "Recipe":
        """The recipe without what was solved: hundreds of coefficients belong in a file, not in prose."""
        parameters = {
            parameter.name: parameter.without_solved(self.parameters[parameter.name])
            for parameter in self.method.parameters
            if parameter.name in self.parameters and not isinstance(parameter, Solved)
        }
        return replace(self, parameters=parameters)

    def title(self, names: Mapping[str, str], family: Collection[str] = ()) -> str:
        """Name the merge by its method, its models unless they are the whole family, and what is no default."""
        called = [names.get(reference, reference) for reference in self.references]
        own = "" if set(called) == set(family) else f" of {', '.join(called)}"
        changed = [
            f"{parameter.title} {_short(self.parameters[parameter.name])}"
            for parameter in self.method.parameters
            if isinstance(parameter, Number | Choice | Flag | MethodPart)
            and self.parameters.get(parameter.name, parameter.default) != parameter.default
        ]
        if self.tokenizer:
            changed.append(f"tokenizer {names.get(self.tokenizer.source, self.tokenizer.source)}")
        return ", ".join([f"{self.method.title}{own}", *changed])

    def path(self, reference: str) -> Path:
        """Find a file that the recipe names: as it is written, else beside the recipe's own file."""
        return find_path(reference, self.folder)

    def in_full(self, places: Places) -> tuple["Recipe", dict[str, str]]:
        """Return the recipe with all that it names in full, and what decides its result beside it.

        That is the fingerprint of everything it reads, whatever the parameter is called, and its methods' versions.

        Raises:
            InputError: a model, a corpus, a folder or a file that it names is not there.
        """
        places = replace(places, folder=self.folder)
        found = {"engine": f"version {ENGINE_VERSION}"}
        found[f"method {self.merge_method}"] = f"version {self.method.version}"

        def model(reference: str) -> str:
            full, found[full] = places.model(reference)
            return full

        def values(given: Mapping[str, Any]) -> dict[str, Any]:
            full = dict(given)
            for parameter in self.method.parameters:
                if parameter.name in given and given[parameter.name] != NEURONS_FOLDER:
                    full[parameter.name], inputs = _content(parameter, given[parameter.name], places)
                    found.update(inputs)
            return full

        entries = tuple(ModelEntry(model(entry.model), values(entry.parameters)) for entry in self.models)
        base = model(self.base_model) if self.base_model else None
        tokenizer = self.tokenizer and self.tokenizer.renamed(model)
        full = replace(self, base_model=base, models=entries, parameters=values(self.parameters), tokenizer=tokenizer)
        return full, found

    def resolved(self, prepared: Prepared) -> "Recipe":
        """Fill in what a method found out, as a finished merge records it."""
        entries = tuple(
            replace(entry, parameters={**entry.parameters, **{n: own[i] for n, own in prepared.solved_each.items()}})
            for i, entry in enumerate(self.models)
        )
        return replace(self, parameters={**self.parameters, **prepared.solved}, models=entries)


def load_recipe(source: Path | str | Mapping[str, Any]) -> Recipe:
    """Read a recipe from a YAML file, YAML text or a mapping.

    Raises:
        InputError: not YAML, an unknown key (the nearest known one is named), a missing key, or a value out of range.
    """
    content = read_content(source)
    _check_engine(content.get("engine", "nmerge"))
    for key in content:
        if key in mergekit.KEYS and key not in _KEYS:
            raise InputError(f"recipe: key '{key}' is mergekit's own; {mergekit.elsewhere()}, or leave the key out")
    _known(content, _KEYS, "recipe")
    name = str(content.get("merge_method"))
    method = find_method(name)
    if method is None:
        raise _no_method(name)
    base = content.get("base_model")
    if base is not None and not isinstance(base, str):
        raise InputError(f"recipe, key 'base_model': expected a folder or Hub id, found {base!r}")
    if method.needs_base and not base:
        raise InputError(f"recipe, key 'base_model': {name} merges differences from a base; name its folder or Hub id")
    entries = tuple(entry for entry in _entries(content.get("models"), method) if not _is_base(entry, base, method))
    if not entries:
        raise InputError("recipe, key 'models': expected at least one model besides the base, found none")
    return Recipe(
        merge_method=name,
        base_model=base,
        models=entries,
        parameters=_parameters(content.get("parameters"), method, "parameters"),
        # mergekit computes in `dtype` and writes `out_dtype`; here arithmetic is float32 whatever is written.
        dtype=_dtype(content, "out_dtype") or _dtype(content, "dtype"),
        run_dtype=_dtype(content, "run_dtype", RUN_DTYPES) or AUTO,
        seed=_seed(content.get("seed", 0)),
        tokenizer=read_choice(content, [*([base] if base else []), *(entry.model for entry in entries)]),
        folder=file.parent if (file := file_of(source)) else None,
    )


def file_of(source: Path | str | Mapping[str, Any]) -> Path | None:
    """Return the file that a recipe is read from; None for YAML text or a mapping."""
    if isinstance(source, str) and "\n" not in source and source.endswith((".yaml", ".yml")):
        return Path(source)
    return source if isinstance(source, Path) else None


def read_content(source: Path | str | Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what stands in a recipe: of a YAML file, YAML text, or a mapping as it is.

    Raises:
        InputError: it cannot be read, is not YAML, or no mapping.
    """
    if isinstance(source, Mapping):
        return source
    file = file_of(source)
    name = str(file or "recipe")
    try:
        text = file.read_text(encoding="utf-8") if file else str(source)
        content = yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{name}: not readable as YAML ({reason})") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{name}: expected a mapping with {', '.join(_KEYS)}; found {type(content).__name__}")
    return content


def _short(value: Any) -> str:
    """Write a value into a title: of a method with parameters of its own the name."""
    if isinstance(value, Mapping):
        return str(value.get("method", ", ".join(f"{key} {_short(each)}" for key, each in value.items())))
    return str(value).replace("_", " ")


def _content(parameter: Parameter, value: Any, places: Places) -> tuple[Any, Mapping[str, str]]:
    try:
        return parameter.content(value, places)
    except InputError as error:
        raise InputError(f"recipe, key '{parameter.name}': {error}") from error


def _no_method(name: str) -> InputError:
    if name in mergekit.METHODS:
        return InputError(f"recipe, key 'merge_method': '{name}' is one of mergekit's methods; {mergekit.elsewhere()}")
    available = methods()
    near = get_close_matches(name, available, 1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return InputError(f"recipe, key 'merge_method': expected one of {', '.join(available)}; found '{name}'{hint}")


def _known(content: Mapping[str, Any], keys: Iterable[str], where: str) -> None:
    keys = tuple(keys)
    for key in content:
        if key not in keys:
            near = get_close_matches(str(key), keys, 1, 0.5)
            offered = ", ".join(key for key in keys if key not in _WITHOUT_EFFECT)
            hint = f"did you mean '{near[0]}'?" if near else f"known keys: {offered or 'none'}"
            owners = [name for name, method in methods().items() if key in {p.name for p in method.parameters}]
            owned = f" (it is a parameter of {', '.join(owners)}; leave it out here)" if owners else ""
            raise InputError(f"{where}: unknown key '{key}'{owned}; {hint}")


def _entries(models: Any, method: Method) -> list[ModelEntry]:
    if not isinstance(models, list):
        raise InputError(f"recipe, key 'models': expected a list of {{model: …}}, found {type(models).__name__}")
    entries = []
    for index, entry in enumerate(models):
        where = f"models[{index}]"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("model"), str):
            raise InputError(f"recipe, key '{where}': expected {{model: path-or-id, parameters: …}}, found {entry!r}")
        _known(entry, ("model", "parameters"), f"recipe, {where}")
        entries.append(ModelEntry(entry["model"], _parameters(entry.get("parameters"), method, where, per_model=True)))
    return entries


def _is_base(entry: ModelEntry, base: str | None, method: Method) -> bool:
    # mergekit's examples list the base among the models; its difference from itself is nothing to merge.
    return method.needs_base and entry.model == base


def _parameters(given: Any, method: Method, where: str, *, per_model: bool = False) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(f"recipe, key '{where}': expected a mapping of parameters, found {type(given).__name__}")
    allowed = [parameter for parameter in method.parameters if parameter.per_model or not per_model]
    _known(given, [*(parameter.name for parameter in allowed), *_WITHOUT_EFFECT], f"recipe, {where} ({method.name})")
    return {
        parameter.name: parameter.check(given[parameter.name], f"recipe, key '{where}.{parameter.name}'")
        for parameter in allowed
        if given.get(parameter.name) is not None  # a key that was left blank is a key left out
    }


def _check_engine(engine: Any) -> None:
    if engine == mergekit.ENGINE:
        raise InputError(
            "recipe, key 'engine': expected a recipe for NMerge's own methods (engine: nmerge), found one for mergekit"
        )
    if engine != "nmerge":
        raise InputError(f"recipe, key 'engine': expected nmerge or mergekit, found {engine!r}")


def _dtype(content: Mapping[str, Any], key: str, known: Sequence[str] = tuple(DTYPES)) -> str | None:
    dtype = content.get(key)
    if dtype is not None and (not isinstance(dtype, str) or dtype not in known):
        raise InputError(f"recipe, key '{key}': expected one of {', '.join(known)}; found {dtype!r}")
    return dtype


def _seed(seed: Any) -> int:
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise InputError(f"recipe, key 'seed': expected a whole number from 0, found {seed!r}")
    return seed
