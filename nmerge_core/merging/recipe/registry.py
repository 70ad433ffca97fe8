"""Every merge method with its parameters, described once: recipes, sliders and documentation are drawn from here."""

import inspect
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from nmerge_core.checkpoints import TensorInfo, raw_bits
from nmerge_core.merging.compute.block import Block, Place, place_of
from nmerge_core.merging.compute.entrywise import Rule
from nmerge_core.merging.compute.stream import Rows, Stream, all_rows, whole_tensors
from nmerge_core.merging.recipe.prepared import Prepared, Result
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.inputs import Input
from nmerge_core.parameters.parameter import Parameter

if TYPE_CHECKING:
    import torch

MergeFunction = Callable[[Block, Values, Any], "torch.Tensor"]
RuleFunction = Callable[[str, Values, Any], Rule]
# Of a `plan.context.Context`, which knows recipes and so methods.
CheckFunction = Callable[[Any, Values], None]
DecideFunction = Callable[[Place, Values, Any], Any]
WholeFunction = Callable[[Place, Values], bool]
PrepareFunction = Callable[[Any, Values], Prepared]
NeedsFunction = Callable[[Stream, Values], "Needs"]
Base: TypeAlias = Literal["needed", "optional", "unused"]


@dataclass(frozen=True)
class Needs:
    """What a method needs beyond streaming blocks: bytes of memory, and operations in float64."""

    memory: int = 0
    operations: float = 0.0


def _accept(context: Any, values: Values) -> None:
    pass


def _once(values: Values) -> int:
    return 1


def _never(values: Values) -> bool:
    return False


def _nowhere(place: Place, values: Values) -> bool:
    return False


def _nothing(stream: Stream, values: Values) -> Needs:
    return Needs()


@dataclass(frozen=True)
class Preset:
    """Parameters of a method that go together: a paper's own setting, or one that was measured to be better."""

    title: str
    sentence: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Method:
    """A merge method: `merge(block, values, prepared)` returns the merged delta of a block, (rows, columns) float32.

    Where every entry is merged by itself (`entrywise`), or every row, `rule(name, values, prepared)` says how for a
    tensor, and `merge` is made of it. `rows(name, values, prepared)` says how the rows of a matrix are merged by
    compiled loops, where they can be. `check(context, values)` raises InputError for parameters that do not go
    together or with the models, from headers alone; then `prepare(context, values)`, where there is one, finds
    whole-model facts; `results` say which of them are worth seeing, and `presets` which settings are to be had at a
    click. `decides(place, values, prepared)` says what of all that decides a tensor: everything, if there is none.
    Where `base` is unused, or optional and not named, a method works on the weights themselves: its blocks have a
    zero base. It merges `fewest` to `most` models beside the base, any number where `most` is None. What it reads
    beside weights is of whole models, or `by_layer`, so that slices can be merged too. `whole` tells of which
    tensors a block must be the whole, `passes` how often the models are read, the merge itself included, `solves`
    whether something is measured by running them on texts, `searches` whether a whole model is held in memory and
    run to find it, and `needs` what else the merge takes. `version` is raised when the merged bytes change. A
    `step` changes what another method merged, `block.change`, under `then` of a recipe. Of one to begin with `when`
    says when to take it, by what was measured.
    """

    name: str
    title: str
    paper: str
    summary: str
    parameters: tuple[Parameter, ...]
    merge: MergeFunction
    place: str
    version: int = 1
    results: tuple[Result, ...] = ()
    presets: tuple[Preset, ...] = ()
    rule: RuleFunction | None = None
    entrywise: bool = False
    rows: RuleFunction | None = None
    decides: DecideFunction | None = None
    check: CheckFunction = _accept
    prepare: PrepareFunction | None = None
    base: Base = "needed"
    by_layer: bool = False
    fewest: int = 1
    most: int | None = None
    whole: WholeFunction = _nowhere
    passes: Callable[[Values], int] = _once
    solves: Callable[[Values], bool] = _never
    searches: Callable[[Values], bool] = _never
    needs: NeedsFunction = _nothing
    step: bool = False
    when: str = ""

    def __reduce__(self) -> tuple[Callable[[str], "Method"], tuple[str]]:
        """Travel between processes as a name: each has the same methods."""
        return named, (self.name,)

    def is_compiled(self, stream: Stream, tensor: TensorInfo) -> bool:
        """Whether a tensor is merged by a compiled loop on entries as they are stored; `tensor` is the output's.

        Nobody else decides it: there is a rule, every source holds plain numbers on a CPU, and so will the output.
        """
        told = self.rule or (self.rows and stream.donor.architecture.matrix(tensor.name).neuronal)
        return bool(told) and stream.plain(tensor.name) and tensor.dtype in raw_bits.DTYPES

    def blocks(self, stream: Stream, names: Iterable[str], values: Values) -> list[Rows]:
        """Cut tensors into the blocks that it merges: each of those that it needs whole is one."""
        found: list[Rows] = []
        for name in names:
            whole = self.whole(place_of(stream.donor.architecture, name), values)
            found += whole_tensors(stream, [name]) if whole else all_rows(stream, [name])
        return found

    @property
    def takes_base(self) -> bool:
        """Whether it merges differences from a base where a recipe names one."""
        return self.base != "unused"

    @property
    def models_told(self) -> str:
        """How many models it merges, in words."""
        if self.most is None:
            return f"at least {self.fewest} models" if self.fewest > 1 else "any number of models"
        if self.most > self.fewest:
            return f"{self.fewest} to {self.most} models"
        return "exactly one model" if self.most == 1 else f"exactly {self.most} models"

    @property
    def defaults(self) -> dict[str, Any]:
        """The default of every parameter."""
        return {parameter.name: parameter.default for parameter in self.parameters}

    @property
    def computes(self) -> str:
        """What is computed, and where the source is silent: the documentation of its function."""
        return inspect.cleandoc((self.rule or self.merge).__doc__ or "")

    @property
    def told(self) -> str:
        """What it does and computes, with its source, in paragraphs."""
        return f"{self.title} ({self.paper}): {self.summary}\n\n{self.computes}"

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The parameters that name something to be read."""
        return tuple(parameter for parameter in self.parameters if isinstance(parameter, Input))

    def checked(self, context: Any, values: Values) -> None:
        """Check what can be wrong about parameters and models together; raises InputError."""
        count = len(context.labels)
        if count < self.fewest or (self.most is not None and count > self.most):
            beside = " beside the base" if context.recipe.differences else ""
            raise context.wrong("models", f"{self.models_told}{beside}", f"{count}")
        self.check(context, values)

    def facts(self, context: Any, values: Values) -> Prepared:
        """Find what it has to know before it merges, in a form that travels between processes.

        Raises:
            InputError: parameters do not go together, or with the models.
            TypeError: what `prepare` found cannot travel.
        """
        self.checked(context, values)
        prepared = self.prepare(context, values) if self.prepare else Prepared()
        try:
            pickle.dumps(prepared.data)
        except Exception as error:
            raise TypeError(
                f"merge method '{self.name}' ({self.place}): what `prepare` puts into Prepared.data must be picklable, "
                f"as processes that share a merge are told it ({error})"
            ) from error
        return prepared

    def decided_by(self, place: Place, values: Values, prepared: Prepared) -> Any:
        """Return what decides how a tensor is merged: where it equals what it was before, so does what is merged."""
        if self.rule:
            return self.rule(place.name, values, prepared)
        if self.decides:
            return self.name, self.decides(place, values, prepared)
        return self.name, values, prepared.digest


Function = TypeVar("Function", bound=Callable[..., Any])  # a MergeFunction, or a RuleFunction
_PACKAGE = "nmerge_core.merging.methods"
LISTING = "`nmerge methods`"  # the command that lists every method and step
_METHODS: dict[str, Method] = {}


def method(
    name: str,
    *,
    title: str,
    paper: str,
    summary: str,
    parameters: Sequence[Parameter],
    version: int = 1,
    results: Sequence[Result] = (),
    presets: Sequence[Preset] = (),
    decides: DecideFunction | None = None,
    check: CheckFunction = _accept,
    prepare: PrepareFunction | None = None,
    base: Base = "needed",
    by_layer: bool = False,
    fewest: int = 1,
    most: int | None = None,
    whole: WholeFunction = _nowhere,
    passes: Callable[[Values], int] = _once,
    solves: Callable[[Values], bool] = _never,
    searches: Callable[[Values], bool] = _never,
    needs: NeedsFunction = _nothing,
    entrywise: bool = False,
    rowwise: bool = False,
    rows: RuleFunction | None = None,
    step: bool = False,
    when: str = "",
) -> Callable[[Function], Function]:
    """Register the decorated merge function as a method, or as a `step`.

    With `entrywise` or `rowwise` a rule is decorated, of entries, or of weight neurons and vectors, by themselves.

    Raises:
        ValueError: another method has this name, two of its parameters have one, or a step has one per model or tensor.
    """

    def register(function: Function) -> Function:
        place = f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"
        if name in _METHODS and _METHODS[name].place != place:
            raise ValueError(f"two merge methods are called '{name}': {_METHODS[name].place} and {place}; rename one")
        names = [parameter.name for parameter in parameters]
        if twice := next((own for own in names if names.count(own) > 1), None):
            raise ValueError(f"merge method '{name}' ({place}): two of its parameters are called '{twice}'; rename one")
        if step and (own := next((each.name for each in parameters if each.per_model or each.varies), None)):
            raise ValueError(f"step '{name}' ({place}): '{own}' differs by model or tensor; a step's are of the merge")
        _METHODS[name] = Method(
            name=name,
            title=title,
            paper=paper,
            summary=summary,
            parameters=tuple(parameters),
            merge=_by_rule(function) if entrywise or rowwise else function,
            place=place,
            version=version,
            results=tuple(results),
            presets=tuple(presets),
            rule=function if entrywise or rowwise else None,
            entrywise=entrywise,
            rows=rows,
            decides=decides,
            check=check,
            prepare=prepare,
            base=base,
            by_layer=by_layer,
            fewest=fewest,
            most=most,
            whole=whole,
            passes=passes,
            solves=solves,
            searches=searches,
            needs=needs,
            step=step,
            when=when,
        )
        return function

    return register


def _by_rule(rule: RuleFunction) -> MergeFunction:
    def merge(block: Block, values: Values, prepared: Any) -> "torch.Tensor":
        return rule(block.name, values, prepared).merge(block)

    return merge


def find_method(name: str) -> Method | None:
    """Return the method of this name, if there is one."""
    found = _METHODS.get(name) or _registered().get(name)  # the folder is looked through for an unknown one alone
    return None if found is None or found.step else found


def named(name: str) -> Method:
    """Return a method or a step that is known to exist."""
    return _METHODS.get(name) or _registered()[name]


def methods() -> Mapping[str, Method]:
    """Return every method by name."""
    return {name: each for name, each in _registered().items() if not each.step}


def steps() -> Mapping[str, Method]:
    """Return every step by name."""
    return {name: each for name, each in _registered().items() if each.step}


def _registered() -> Mapping[str, Method]:
    """Return all there is: each module of `merging.methods`, whatever it is called, registers its own."""
    for module in iter_modules(import_module(_PACKAGE).__path__):
        import_module(f"{_PACKAGE}.{module.name}")
    return dict(sorted(_METHODS.items()))
