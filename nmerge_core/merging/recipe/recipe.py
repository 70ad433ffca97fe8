"""A checked recipe: it knows its values, its own content and YAML, what it reads, and what it is called."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from nmerge_core.checkpoints.reference import label, labels
from nmerge_core.corpus.corpus import whole_and_slice
from nmerge_core.errors import InputError
from nmerge_core.inputs import Places, find_path
from nmerge_core.merging.recipe import mergekit_recipe as mergekit
from nmerge_core.merging.recipe.chain import chained
from nmerge_core.merging.recipe.method_part import MethodPart
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import Method, named
from nmerge_core.merging.recipe.slices import Layers, Slice
from nmerge_core.merging.recipe.steps import Step
from nmerge_core.merging.recipe.template_choice import TemplateChoice
from nmerge_core.merging.recipe.tokenizer_choice import TokenizerChoice
from nmerge_core.merging.recipe.values import OfSlice, Values, joined, steady
from nmerge_core.number_format import AUTO
from nmerge_core.parameters.parameter import Parameter
from nmerge_core.parameters.values import Choice, Flag, Number, Solved

DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
ENGINE_VERSION = 4  # raised when the engine writes other bytes for the same recipe


@dataclass(frozen=True)
class ModelEntry:
    """One model of a recipe with the parameters given beside it."""

    model: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A checked recipe; `parameters` holds what was written under it, defaults are filled in by `values`.

    `then` are the steps that change what the method merged, in order.
    `dtype` is the format of what is written (the donor's if None), `run_dtype` that of models that are run on the way.
    With `slices` the models are all that these name, the base aside.
    `folder` is that of the file it came from: its relative paths may start there.
    """

    merge_method: str
    base_model: str | None
    models: tuple[ModelEntry, ...]
    parameters: Mapping[str, Any]
    slices: tuple[Slice, ...] = ()
    then: tuple[Step, ...] = ()
    dtype: str | None = None
    run_dtype: str = AUTO
    seed: int = 0
    tokenizer: TokenizerChoice | None = None
    chat_template: TemplateChoice | None = None
    folder: Path | None = field(default=None, compare=False)

    @property
    def method(self) -> Method:
        """The method this recipe names, with its steps."""
        method = named(self.merge_method)
        return chained(method, [each.method for each in self.then]) if self.then else method

    @property
    def differences(self) -> bool:
        """Whether differences from the base are merged, and not the weights themselves."""
        return self.base_model is not None and self.method.takes_base

    @property
    def references(self) -> tuple[str, ...]:
        """The models that are merged, in order; the base is not among them."""
        return tuple(entry.model for entry in self.models)

    @property
    def merged(self) -> "tuple[ModelEntry | Layers, ...]":
        """What parameters stand beside: the models, or the layers of them that slices name, slice after slice."""
        return tuple(source for each in self.slices for source in each.models) if self.slices else self.models

    @property
    def layers(self) -> tuple[tuple[tuple[str, int, int], ...], ...]:
        """Which layers of which models each slice has, the base's first: none where whole models are merged."""
        return tuple(tuple((own.model, own.first, own.last) for own in each.sources) for each in self.slices)

    @property
    def labels(self) -> list[str]:
        """A distinct short name per model that is merged, in order; in slices by the layers that it has."""
        if not self.slices:
            return labels(self.references)
        lanes = zip(*(each.models for each in self.slices), strict=True)
        return [", ".join(f"{label(own.model)} {own.first}–{own.last}" for own in lane) for lane in lanes]

    @property
    def defaults(self) -> dict[str, Any]:
        """The method's default of every parameter."""
        return self.method.defaults

    def values(self) -> Values:
        """Resolve every parameter: beside a model, else under `parameters`, else the default."""
        if not self.slices:
            return self._values(self.parameters, [entry.parameters for entry in self.models])
        found, first = [], 0
        for each in self.slices:
            own = self._values({**self.parameters, **each.parameters}, [source.parameters for source in each.models])
            found.append(OfSlice(first, each.depth, own))
            first += each.depth
        return replace(joined([own.values for own in found]), slices=tuple(found))

    def _values(self, parameters: Mapping[str, Any], beside: Sequence[Mapping[str, Any]]) -> Values:
        shared, each = {}, {}
        for parameter in self.method.parameters:
            default = parameters.get(parameter.name, parameter.default)
            if parameter.per_model:
                given = [own.get(parameter.name, default) for own in beside]
                each[parameter.name] = tuple(steady(parameter, value) for value in given)
            else:
                shared[parameter.name] = steady(parameter, default)
        then = tuple(step.values(self.seed) for step in self.then)
        return Values(self.merge_method, shared | {"seed": self.seed}, each, then=then)

    @property
    def runs_models(self) -> bool:
        """Whether models are run on texts or tasks before they are merged."""
        return self.method.solves(self.values()) or self.searches

    @property
    def goes_by_weights(self) -> bool:
        """Whether the weights of its models are all that is read of these, block by block."""
        methods = [self.method, *(step.method for step in self.then)]
        return not self.runs_models and not any(method.inputs for method in methods)

    @property
    def is_entrywise(self) -> bool:
        """Whether every entry is merged by itself, with nothing found out before."""
        return self.method.entrywise and self.method.prepare is None

    @property
    def searches(self) -> bool:
        """Whether a whole model is held in memory and run to find something."""
        return self.method.searches(self.values())

    @cached_property
    def content(self) -> dict[str, Any]:
        """What stands in its YAML, every default filled in."""
        values = replace(self, slices=()).values()
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
        made_of = {"slices": [each.content for each in self.slices]} if self.slices else {"models": models}
        content |= {**made_of, "parameters": shared}
        if self.then:
            content["then"] = [each.content for each in self.then]
        if self.dtype:
            content["dtype"] = self.dtype
        if self.run_dtype != AUTO:
            content["run_dtype"] = self.run_dtype
        if self.tokenizer:
            content["tokenizer"] = self.tokenizer.content()
        if self.chat_template:
            content["chat_template"] = self.chat_template.source
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
        short = labels(self.references)
        called = [names.get(reference, own) for reference, own in zip(self.references, short, strict=True)]
        whose = "" if set(called) == set(family) else f" of {', '.join(called)}"
        changed = _changed(self.method, self.parameters)
        if self.tokenizer:
            changed.append(f"tokenizer {names.get(self.tokenizer.source, label(self.tokenizer.source))}")
        if self.chat_template and self.chat_template.kind != "text":
            source = self.chat_template.source
            changed.append(f"chat template {names.get(source, label(source))}")
        for step in self.then:
            own = ", ".join(_changed(step.method, step.parameters))
            changed.append(f"then {step.method.title}" + (f" ({own})" if own else ""))
        return ", ".join([f"{self.method.title}{whose}", *changed])

    def renamed(self, name: Callable[[str], str]) -> "Recipe":
        """Return the recipe with other names of its models."""
        return replace(
            self,
            base_model=name(self.base_model) if self.base_model else None,
            models=tuple(ModelEntry(name(entry.model), entry.parameters) for entry in self.models),
            slices=tuple(each.renamed(name) for each in self.slices),
            tokenizer=self.tokenizer and self.tokenizer.renamed(name),
            chat_template=self.chat_template and self.chat_template.renamed(name),
        )

    def path(self, reference: str) -> Path:
        """Find a file that the recipe names: as it is written, else beside the recipe's own file."""
        return find_path(reference, self.folder)

    def corpus(self, reference: str) -> str:
        """Find a corpus that the recipe names, as a file, and the slice of it that is meant."""
        whole, meant = whole_and_slice(reference)
        return f"{self.path(whole)}{meant}"

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
                if parameter.name in given:
                    full[parameter.name], inputs = _content(parameter, given[parameter.name], places)
                    found.update(inputs)
            return full

        named = self.renamed(model)
        entries = tuple(ModelEntry(entry.model, values(entry.parameters)) for entry in named.models)
        then = []
        for index, step in enumerate(self.then):
            with _named(f"then[{index}]"):
                own, inputs = step.in_full(places)
            then.append(own)
            found.update(inputs)
        template = named.chat_template
        if template and template.kind == "file":
            with _named("chat_template"):
                file, found["chat_template"] = places.file(template.source)
            template = replace(template, source=file)
        slices = tuple(each.with_parameters(values) for each in named.slices)
        full = replace(named, models=entries, slices=slices, parameters=values(self.parameters))
        for parameter in self.method.parameters:  # a part's method decides where it is the default one too
            if isinstance(parameter, MethodPart) and parameter.name not in self.parameters:
                found.update(_content(parameter, parameter.default, places)[1])
        return replace(full, then=tuple(then), chat_template=template), found

    def resolved(self, prepared: Prepared) -> "Recipe":
        """Fill in what a method found out, as a finished merge records it."""
        filled: Iterator[Any] = (
            replace(own, parameters={**own.parameters, **{n: each[i] for n, each in prepared.solved_each.items()}})
            for i, own in enumerate(self.merged)
        )
        slices = tuple(replace(own, models=tuple(islice(filled, len(own.models)))) for own in self.slices)
        entries = self.models if slices else tuple(filled)
        return replace(self, parameters={**self.parameters, **prepared.solved}, models=entries, slices=slices)


def _changed(method: Method, parameters: Mapping[str, Any]) -> list[str]:
    """Tell those of a method's settings that are no default."""
    return [
        f"{parameter.title} {_short(parameters[parameter.name])}"
        for parameter in method.parameters
        if isinstance(parameter, Number | Choice | Flag | MethodPart)
        and parameters.get(parameter.name, parameter.default) != parameter.default
    ]


def _short(value: Any) -> str:
    """Write a value into a title: of a method with parameters of its own the name."""
    if isinstance(value, Mapping):
        return str(value.get("method", ", ".join(f"{key} {_short(each)}" for key, each in value.items())))
    return str(value).replace("_", " ")


def _content(parameter: Parameter, value: Any, places: Places) -> tuple[Any, Mapping[str, str]]:
    with _named(parameter.name):
        return parameter.content(value, places)


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Name the recipe's key in what is wrong with its value."""
    try:
        yield
    except InputError as error:
        raise InputError(f"recipe, key '{key}': {error}") from error
