"""Leave out each model's smallest changes and its very largest, tensor by tensor."""

from collections.abc import Mapping, Sequence
from math import inf

from nmerge_core.merging.compute.entrywise import Entrywise
from nmerge_core.merging.compute.order_statistics import by_magnitude
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.shared_parameters import DENSITY, LAMBDA, NORMALIZE, WEIGHT
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.values import Number

_PAPER = "Davari & Belilovsky, ECCV 2024"
_PARAMETERS = [
    WEIGHT,
    DENSITY.with_(default=0.9, help="Fraction of each model's changes that is kept, of each tensor."),
    Number(
        name="gamma",
        default=0.01,
        help="Fraction of each model's largest changes that is left out, of each tensor.",
        low=0,
        high=1,
        step=0.005,
        per_model=True,
        varies=True,
    ),
    LAMBDA,
    NORMALIZE,
]
_Band = tuple[float, float]  # the least |τ| that is kept, and the least that is too large
_Bands = Mapping[str, Sequence[_Band]]


def prepare(context: Context, values: Values) -> Prepared:
    """Find between which magnitudes the changes lie that are kept, per tensor and model."""
    asked: dict[str, list[tuple[int, int]]] = {}

    def ranks(name: str, entries: int) -> list[list[int]]:
        own = context.values_of(name, values).each
        asked[name] = [_ranks(entries, *each) for each in zip(own["density"], own["gamma"], strict=True)]
        return [[rank for rank in (last, first - 1) if 1 <= rank <= entries] for first, last in asked[name]]

    found = context.tensor_statistics(ranks, by_magnitude)
    return Prepared({name: _bands(asked[name], found[name]) for name in found})


def _ranks(entries: int, density: float, gamma: float) -> tuple[int, int]:
    """Return the ranks of the largest and the smallest entry that is kept, the largest of all being rank 1.

    Of a density such as 0.1 its decimal value counts, not its binary one.
    """
    kept, largest = (int(round(share * entries, 6)) for share in (density, gamma))
    first = 1 + min(largest, entries - kept)
    return first, first + kept - 1


def _bands(ranks: Sequence[tuple[int, int]], found: Sequence[Sequence[float]]) -> list[_Band]:
    bands = []
    for (first, last), magnitudes in zip(ranks, found, strict=True):
        if last < first:
            bands.append((inf, inf))
        else:
            bands.append((magnitudes[0], magnitudes[1] if first > 1 else inf))
    return bands


@method(
    "breadcrumbs",
    title="Model Breadcrumbs",
    paper=_PAPER,
    summary="Leave out each model's smallest changes and its very largest, and add up the rest.",
    parameters=_PARAMETERS,
    prepare=prepare,
    passes=lambda values: 2,
    entrywise=True,
)
def rule_linear(name: str, values: Values, prepared: Prepared) -> Entrywise:
    """λ Σ w_t of the deltas that are neither among the ⌊γ n⌋ largest of a tensor's n nor among its smallest.

    ⌊density · n⌋ are kept, fewer left out of the largest where both do not fit; ties at either end are kept or left out
    together.
    """
    return _rule(name, values, prepared, elect=False)


@method(
    "breadcrumbs_ties",
    title="Breadcrumbs + TIES",
    paper=_PAPER,
    summary="Leave out each model's smallest changes and its very largest, then keep what has the elected sign.",
    parameters=_PARAMETERS,
    prepare=prepare,
    passes=lambda values: 2,
    entrywise=True,
)
def rule_ties(name: str, values: Values, prepared: Prepared) -> Entrywise:
    """λ times the elected sum of what `breadcrumbs` keeps, its mean if `normalize`."""
    return _rule(name, values, prepared, elect=True)


def _rule(name: str, values: Values, prepared: Prepared, elect: bool) -> Entrywise:
    bands: _Bands = prepared.data
    low, high = zip(*bands[name], strict=True)
    return Entrywise(
        values.each["weight"],
        values.shared["lambda"],
        values.shared["normalize"],
        thresholds=low,
        ceilings=high,
        elect=elect,
    )
