"""Every merge method with its parameters, described once: recipes, sliders and documentation are drawn from here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, TypeVar

from nmerge_core.errors import InputError
from nmerge_core.merging.recipe import gradients

if TYPE_CHECKING:
    import torch

    from nmerge_core.merging.compute.block import Block
    from nmerge_core.merging.compute.entrywise import Entrywise
    from nmerge_core.merging.compute.stream import Stream
    from nmerge_core.merging.plan.context import Context


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method: its kind, default, range and meaning.

    Kinds are float, int, choice, flag, text, names (a tuple of texts), path and json. `per_model` parameters stand
    beside a model in a recipe or, for all models, under `parameters`. A parameter with `auto` also takes the word auto;
    one `per_category` also takes a mapping from category to value; one that `varies` also takes mergekit's gradient
    over the layers or its list of filters (`gradients.at`).
    """

    name: str
    kind: str
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()
    per_model: bool = False
    per_category: bool = False
    auto: bool = False
    varies: bool = False
    open_end: bool = False  # whether `high` is only where a slider ends, and larger values are accepted
    above_low: bool = False  # whether `low` itself is outside the range
    advanced: bool = False  # filled in by a finished merge, seldom by hand

    def check(self, value: Any, where: str) -> Any:
        """Return a value in this parameter's own type.

        Raises:
            InputError: the value is of another kind or out of range; `where` names the place in the recipe.
        """
        if self.per_category and isinstance(value, Mapping):
            return {str(category): self.check(choice, f"{where}.{category}") for category, choice in value.items()}
        if self.varies and isinstance(value, list):
            if not value or len({isinstance(part, Mapping) for part in value}) > 1:
                raise InputError(
                    f"recipe, key '{where}': expected a list of numbers (a gradient over the layers) or of "
                    f"{{filter, value}}, found {value!r}"
                )
            return [self._check_part(part, f"{where}[{index}]") for index, part in enumerate(value)]
        if value is None or self.kind == "json" or (self.auto and value == "auto"):
            return value
        if self.kind == "names":
            names = [value] if isinstance(value, str) else value
            if not isinstance(names, list | tuple) or not all(name and isinstance(name, str) for name in names):
                raise InputError(f"recipe, key '{where}': expected {self.expected()}, found {value!r}")
            return tuple(names)  # a list would be a gradient over the layers
        kinds: dict[str, tuple[type, ...]] = {"float": (int, float), "int": (int,), "flag": (bool,)}
        if not isinstance(value, kinds.get(self.kind, (str,))) or (self.kind != "flag" and isinstance(value, bool)):
            raise InputError(f"recipe, key '{where}': expected {self.expected()}, found {value!r}")
        if self.kind == "choice" and value not in self.choices:
            raise InputError(f"recipe, key '{where}': expected {self.expected()}, found '{value}'")
        if isinstance(value, int | float) and self.kind in ("float", "int"):
            too_low = self.low is not None and (value < self.low or (self.above_low and value == self.low))
            if value != value or too_low or (self.high is not None and value > self.high and not self.open_end):
                raise InputError(f"recipe, key '{where}': expected {self.expected()}, found {value}")
            return float(value) if self.kind == "float" else value
        return value

    def _check_part(self, part: Any, where: str) -> Any:
        """Check one point of a gradient, or one {filter, value} of a list of filters."""
        if not isinstance(part, Mapping):
            return self.check(part, where)
        if not {"value"} <= part.keys() <= {"filter", "value"} or not isinstance(part.get("filter", ""), str):
            raise InputError(
                f"recipe, key '{where}': expected {{filter: part of a name, value: …}}, found {dict(part)}"
            )
        return {**part, "value": self.check(part["value"], f"{where}.value")}

    def expected(self) -> str:
        """Say in words what values are accepted."""
        auto = ", or auto" if self.auto else ""
        if self.kind == "choice":
            return f"one of {', '.join(self.choices)}"
        if self.kind == "flag":
            return "true or false"
        if self.kind not in ("float", "int"):
            return "a list of names" if self.kind == "names" else "text"
        noun = "a number" if self.kind == "float" else "a whole number"
        if self.low is None and self.high is None:
            return noun + auto
        left = "(" if self.above_low or self.low is None else "["
        low = "−∞" if self.low is None else f"{self.low:g}"
        high = "∞)" if self.high is None or self.open_end else f"{self.high:g}]"
        return f"{noun} in {left}{low}, {high}{auto}"


@dataclass(frozen=True)
class Values:
    """The resolved parameters of a merge: shared ones by name, per-model ones as a tuple in the models' order."""

    shared: Mapping[str, Any]
    each: Mapping[str, tuple[Any, ...]]

    def at(self, name: str, position: float) -> "Values":
        """Return the values of one tensor; `position` is its place in the model, 0 the first layer, 1 the last."""
        shared = {key: gradients.at(value, name, position) for key, value in self.shared.items()}
        each = {key: tuple(gradients.at(value, name, position) for value in own) for key, own in self.each.items()}
        return Values(shared, each)

    def with_defaults(self, defaults: Mapping[str, Any]) -> "Values":
        """Return the values with a default in place of every None."""
        shared = {key: defaults.get(key) if value is None else value for key, value in self.shared.items()}
        each = {key: tuple(defaults[key] if v is None else v for v in own) for key, own in self.each.items()}
        return Values(shared, each)


MergeFunction = Callable[["Block", Values, Any], "torch.Tensor"]
RuleFunction = Callable[[str, Values, Any], "Entrywise"]
PrepareFunction = Callable[["Context", Values], Any]
NeedsFunction = Callable[["Stream"], "Needs"]


def _once(values: Values) -> int:
    return 1


def _never(values: Values) -> bool:
    return False


@dataclass(frozen=True)
class Needs:
    """What a method needs beyond streaming blocks: bytes of memory, and operations in float64."""

    memory: int = 0
    operations: float = 0.0


def _nothing(stream: "Stream") -> Needs:
    return Needs()


@dataclass(frozen=True)
class Method:
    """A merge method: `merge(block, values, facts)` returns the merged delta of a block, (rows, columns) float32.

    Where every entry is merged by itself, `rule(name, values, facts)` says how for a tensor, and `merge` is made of it.
    `prepare(context, values)`, where there is one, finds whole-model facts first. A method without base works on the
    weights themselves: its blocks have a zero base. `passes` tells how often the models are read, the merge itself
    included, `solves` whether something is measured by running them on texts, `searches` whether a whole model is held
    in memory and run to find it, and `needs` what else the merge takes.
    """

    name: str
    title: str
    paper: str
    summary: str
    parameters: tuple[Parameter, ...]
    merge: MergeFunction
    rule: RuleFunction | None = None
    prepare: PrepareFunction | None = None
    needs_base: bool = True
    passes: Callable[[Values], int] = _once
    solves: Callable[[Values], bool] = _never
    searches: Callable[[Values], bool] = _never
    needs: NeedsFunction = _nothing

    def __reduce__(self) -> tuple[Callable[[str], "Method"], tuple[str]]:
        """Travel between processes as a name: each has the same methods."""
        return named, (self.name,)


Function = TypeVar("Function", bound=Callable[..., Any])  # a MergeFunction, or a RuleFunction
_PACKAGE = "nmerge_core.merging.methods"
_METHODS: dict[str, Method] = {}


def method(
    name: str,
    *,
    title: str,
    paper: str,
    summary: str,
    parameters: Sequence[Parameter],
    prepare: PrepareFunction | None = None,
    needs_base: bool = True,
    passes: Callable[[Values], int] = _once,
    solves: Callable[[Values], bool] = _never,
    searches: Callable[[Values], bool] = _never,
    needs: NeedsFunction = _nothing,
    entrywise: bool = False,
) -> Callable[[Function], Function]:
    """Register the decorated merge function, with `entrywise` the decorated rule, as a method.

    It is defined in the module of its name, or of its name's first part (`dare_ties` in `dare`).
    """

    def register(function: Function) -> Function:
        _METHODS[name] = Method(
            name=name,
            title=title,
            paper=paper,
            summary=summary,
            parameters=tuple(parameters),
            merge=_by_rule(function) if entrywise else function,
            rule=function if entrywise else None,
            prepare=prepare,
            needs_base=needs_base,
            passes=passes,
            solves=solves,
            searches=searches,
            needs=needs,
        )
        return function

    return register


def _by_rule(rule: RuleFunction) -> MergeFunction:
    def merge(block: "Block", values: Values, facts: Any) -> "torch.Tensor":
        return rule(block.name, values, facts).merge(block)

    return merge


def find_method(name: str) -> Method | None:
    """Return the method of this name, if there is one, without importing the others."""
    for module in (name, name.split("_")[0]):
        if name not in _METHODS and module.isidentifier() and find_spec(f"{_PACKAGE}.{module}"):
            import_module(f"{_PACKAGE}.{module}")
    return _METHODS.get(name)


def named(name: str) -> Method:
    """Return a method that is known to exist."""
    found = find_method(name)
    if found is None:
        raise KeyError(name)
    return found


def methods() -> Mapping[str, Method]:
    """Return every method by name: each module of `merging.methods` registers its own when it is imported."""
    for module in iter_modules(import_module(_PACKAGE).__path__):
        import_module(f"{_PACKAGE}.{module.name}")
    return dict(sorted(_METHODS.items()))
