"""Select what models disagree most about, weigh them by how much of that they changed, and elect signs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.compute.inner_products import Products
from nmerge_core.merging.compute.order_statistics import Ranking, order_statistics
from nmerge_core.merging.compute.primitives import elect
from nmerge_core.merging.compute.stream import Rows
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parallel import in_order
from nmerge_core.parameters.values import Number
from nmerge_core.progress import silent

if TYPE_CHECKING:
    from torch import Tensor


def prepare(context: Context, values: Values) -> Prepared:
    """Find of each tensor the least variance that is selected, and each model's weight over what is."""
    found = {}
    for done, name in enumerate(context.names):
        context.progress("Variances per tensor", done, len(context.names), "tensors")
        share = context.values_of(name, values).shared["select_topk"]
        least = _least_variance(context, name, share) if share < 1 else 0.0
        squares = np.zeros(len(context.labels))
        for own in in_order(partial(_squares, context, least), context.stream.rows(name)):
            squares += own
        total = squares.sum()
        found[name] = least, (squares / total if total else np.ones_like(squares)).tolist()
    return Prepared(found)


def _least_variance(context: Context, name: str, share: float) -> float:
    """Return the least variance among the share of entries, of those that differ, in which models differ most."""
    stream = context.stream
    rows = stream.rows(name)

    def variances(each: Rows) -> Tensor:
        return _variance(stream.load(each)).flatten()[None]  # (1, entries)

    differ = sum(in_order(lambda each: int(variances(each).count_nonzero()), rows))
    count = int(round(share * differ, 6))
    if not count:
        return float("inf")
    ((least,),) = order_statistics(stream, rows, Ranking(variances), [[count]], "Variances", silent)
    return least


def _squares(context: Context, least: float, rows: Rows) -> Products:
    """Return Σ τ_t² of what is selected in a block, (T,) float64."""
    block = context.stream.load(rows)
    kept = block.deltas * (_variance(block) >= least)
    squares: Products = kept.double().square().sum((1, 2)).cpu().numpy()
    return squares


def _variance(block: Block) -> Tensor:
    # Not by torch's own variance, which takes fifty times as long over a few models.
    return (block.deltas - block.deltas.mean(0)).square_().mean(0)


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
)
def merge(block: Block, values: Values, prepared: Prepared) -> torch.Tensor:
    """Return the mean of the selected τ_t that have the sign of their sum, weighted by Σ τ_t² of a tensor.

    Selected are the entries whose variance over the models is among the largest `select_topk`. Weights of small changes
    are exact, where mergekit makes them equal once the mean squares sum to less than 1e-6.
    """
    least, weights = prepared.data[block.name]
    kept = elect(block.deltas * (_variance(block) >= least))
    weigh = block.deltas.new_tensor(weights)[:, None, None]
    total = (weigh * (kept != 0)).sum(0)
    return (weigh * kept).sum(0) / torch.where(total == 0, 1.0, total)
