"""Select what models disagree most about, weigh them by how much of that they changed, and elect signs."""

from collections.abc import Sequence
from math import inf

import numpy as np

from nmerge_core.merging.compute.spread import Selected, Squares, by_variance, differing, squares
from nmerge_core.merging.compute.sums import sum_blocks
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.values import Number


def prepare(context: Context, values: Values) -> Prepared:
    """Find of each tensor the least variance that is selected, and each model's weight over what is."""
    stream, names = context.stream, context.names
    least = _least_variances(context, values)
    zero = np.zeros(len(context.labels))
    found = sum_blocks(
        stream, names, lambda rows: squares(stream, rows, least[rows.name]), zero, "Squares", context.progress
    )
    return Prepared({name: (least[name], _weights(found[name])) for name in names})


def _least_variances(context: Context, values: Values) -> dict[str, float]:
    """Return per tensor the least variance of the share in which models differ most, of the entries that differ."""
    stream = context.stream
    shares = {name: context.values_of(name, values).shared["select_topk"] for name in context.names}
    some = [name for name, share in shares.items() if share < 1]
    differ = sum_blocks(
        stream, some, lambda rows: differing(stream, rows), np.array(0), "Entries that differ", context.progress
    )
    counts = {name: int(round(shares[name] * int(differ[name]), 6)) for name in some}

    def ranks(name: str, entries: int) -> Sequence[Sequence[int]]:
        return [[count] if (count := counts.get(name)) else []]

    found = context.tensor_statistics(ranks, by_variance)
    least = {name: 0.0 if share == 1 else inf for name, share in shares.items()}
    return least | {name: value for name, own in found.items() for value in own[0]}


def _weights(squares: Squares) -> list[float]:
    total = squares.sum()
    weights: list[float] = (squares / total if total else np.ones_like(squares)).tolist()
    return weights


@method(
    "sce",
    title="SCE",
    paper="FuseChat, Wan et al., arXiv 2408.07990",
    summary="Select the weights that models changed most differently, weigh models by what they changed, elect signs.",
    parameters=[
        Number(
            name="select_topk",
            default=1.0,
            help="Share of each tensor's weights that is selected, of those in which models differ; 1 takes all.",
            low=0,
            high=1,
            step=0.05,
            varies=True,
        )
    ],
    prepare=prepare,
    passes=lambda values: 2 if values.shared["select_topk"] == 1 else 4,
    entrywise=True,
    version=2,
)
def rule(name: str, values: Values, prepared: Prepared) -> Selected:
    """The mean of the selected τ_t that have the sign of their sum, weighted by Σ τ_t² of a tensor.

    Selected are the entries whose variance over the models is among the largest `select_topk`. Weights of small changes
    are exact, where mergekit makes them equal once the mean squares sum to less than 1e-6.
    """
    least, weights = prepared.data[name]
    return Selected(weights, least)
