"""Slices of a recipe: the layers of an output, a few at a time, each from as many layers of one or several models."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Layers:
    """Layers [first, last) of a model, with the parameters that stand beside it."""

    model: str
    first: int
    last: int
    parameters: Mapping[str, Any]

    @property
    def content(self) -> dict[str, Any]:
        """What stands in its YAML."""
        own = {"parameters": dict(self.parameters)} if self.parameters else {}
        return {"model": self.model, "layer_range": [self.first, self.last], **own}


@dataclass(frozen=True)
class Slice:
    """Consecutive layers of an output, merged from those of `models`, and of the base where differences are merged."""

    models: tuple[Layers, ...]
    base: Layers | None
    parameters: Mapping[str, Any]

    @property
    def depth(self) -> int:
        """How many layers it makes."""
        return self.models[0].last - self.models[0].first

    @property
    def sources(self) -> tuple[Layers, ...]:
        """The base, where there is one, and the models."""
        return (self.base, *self.models) if self.base else self.models

    @property
    def content(self) -> dict[str, Any]:
        """What stands in its YAML."""
        base = {"base_model": self.base.model} if self.base else {}
        own = {"parameters": dict(self.parameters)} if self.parameters else {}
        return {"sources": [source.content for source in self.sources], **base, **own}

    def with_parameters(self, of: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> "Slice":
        """Return the slice with other parameters, its own and those beside its models."""
        models = tuple(replace(source, parameters=of(source.parameters)) for source in self.models)
        return replace(self, models=models, parameters=of(self.parameters))

    def renamed(self, name: Callable[[str], str]) -> "Slice":
        """Return the slice with other names of its models."""
        models = tuple(replace(source, model=name(source.model)) for source in self.models)
        return replace(self, models=models, base=self.base and replace(self.base, model=name(self.base.model)))
