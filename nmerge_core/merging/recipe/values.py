"""The resolved parameters of a merge, of the whole model or of one tensor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nmerge_core.merging.recipe import gradients
from nmerge_core.parameters.parameter import Parameter


def steady(parameter: Parameter, value: Any) -> Any:
    """Return a value so that a list of it is a gradient over the layers only where the parameter `varies`."""
    return tuple(value) if isinstance(value, list) and not parameter.varies else value


def joined(values: "Sequence[Values]") -> "Values":
    """Return what the values of some slices have alike; what differs as a list of them all."""
    first = values[0]

    def together(found: list[Any]) -> Any:
        return found[0] if all(each == found[0] for each in found) else found

    shared = {key: together([each.shared[key] for each in values]) for key in first.shared}
    models = range(max(map(len, first.each.values()), default=0))
    each = {key: tuple(together([own.each[key][model] for own in values]) for model in models) for key in first.each}
    return Values(first.method, shared, each)


class OfMethod(dict[str, Any]):
    """Values by the names of a method's parameters; asking for another says whose it is not."""

    def __init__(self, method: str, values: Mapping[str, Any]) -> None:
        """Hold the values of a method."""
        super().__init__(values)
        self.method = method

    def __missing__(self, name: str) -> Any:
        """Say which method lacks which parameter: a helper that it calls asks for one that it did not declare."""
        raise LookupError(
            f"merge method '{self.method}' has no parameter '{name}' (it has {', '.join(self) or 'none'}), which a "
            "helper that it calls asks for; declare it in the method's registration"
        )

    def __reduce__(self) -> tuple[type, tuple[str, dict[str, Any]]]:
        """Travel between processes."""
        return OfMethod, (self.method, dict(self))


@dataclass(frozen=True)
class Values:
    """Shared parameters by name, and per-model ones as a tuple in the models' order.

    Of an output in slices every slice has its own; where these differ, what is said here is a list of them all. `then`
    are those of the steps after the method.
    """

    method: str
    shared: Mapping[str, Any] = field(default_factory=dict)
    each: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    slices: "tuple[OfSlice, ...]" = ()
    then: "tuple[Values, ...]" = ()

    def __post_init__(self) -> None:
        """Let both name the method where a parameter is asked for that it does not have."""
        object.__setattr__(self, "shared", OfMethod(self.method, self.shared))
        object.__setattr__(self, "each", OfMethod(self.method, self.each))

    def at(self, name: str, position: float, layer: int | None = None) -> "Values":
        """Return the values of one tensor; `position` is its place in the model, 0 the first layer, 1 the last.

        In slices a place is one in the slice of its `layer`: embeddings are of the first slice, others that are of no
        layer of the last. Of a single layer the place is 1, as in mergekit.
        """
        if self.slices:
            own = self._slice(position, layer)
            inside = position if layer is None else (layer - own.first) / (own.depth - 1) if own.depth > 1 else 1.0
            return own.values.at(name, inside)
        shared = {key: gradients.at(value, name, position) for key, value in self.shared.items()}
        each = {key: tuple(gradients.at(value, name, position) for value in own) for key, own in self.each.items()}
        return Values(self.method, shared, each, then=self.then)

    def _slice(self, position: float, layer: int | None) -> "OfSlice":
        if layer is None:
            return self.slices[0 if position == 0 else -1]
        return next(own for own in self.slices if own.first <= layer < own.first + own.depth)

    def beside(self, name: str) -> list[Any]:
        """Return a parameter of each model, in slices of each one's models, slice after slice."""
        return [value for own in self.slices for value in own.values.each[name]] or list(self.each[name])

    def with_defaults(self, defaults: Mapping[str, Any]) -> "Values":
        """Return the values with a default in place of every None."""
        shared = {key: defaults.get(key) if value is None else value for key, value in self.shared.items()}
        each = {key: tuple(defaults[key] if v is None else v for v in own) for key, own in self.each.items()}
        return Values(self.method, shared, each, then=self.then)


@dataclass(frozen=True)
class OfSlice:
    """The values of the layers first, first + 1, …, `depth` of them."""

    first: int
    depth: int
    values: Values
