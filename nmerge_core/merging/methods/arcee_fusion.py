"""Take one model's weights where the change matters most."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.compute.order_statistics import Ranking, count_entries, order_statistics
from nmerge_core.merging.compute.stream import Rows
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.values import Values
from nmerge_core.progress import silent

if TYPE_CHECKING:
    from torch import Tensor

_LEAST = 1e-8  # that mergekit adds to every probability


def prepare(context: Context, values: Values) -> Prepared:
    """Find the least importance that is taken, in each tensor."""
    stream, found = context.stream, {}
    for done, name in enumerate(context.names):
        context.progress("Importance per tensor", done, len(context.names), "tensors")
        rows = stream.rows(name)
        entries = count_entries(stream, rows)
        quarters = [entries - int(share * (entries - 1)) for share in (0.25, 0.5, 0.75)] if entries else []

        def importances(each: Rows) -> Tensor:
            return _importance(stream.load(each)).flatten()[None]  # (1, entries)

        if rows:
            ranking = Ranking(importances)
            ((low, middle, high),) = order_statistics(stream, rows, ranking, [quarters], "Importance", silent)
            found[name] = middle + 1.5 * (high - low)
    return Prepared(found)


@method(
    "arcee_fusion",
    title="Arcee Fusion",
    paper="Arcee AI; mergekit",
    summary="Take one model's weights where its change is large and moves a neuron's weights as a whole.",
    parameters=[],
    prepare=prepare,
    most=1,
    passes=lambda values: 2,
)
def merge(block: Block, values: Values, prepared: Prepared) -> torch.Tensor:
    """Return τ where its importance |τ| · KL(softmax θ1 ‖ softmax θ0) is at least q2 + 1.5 (q3 − q1), else 0.

    The divergence is of each weight neuron (row), of a vector as a whole, in float64; q are the quartiles of the
    tensor, exact, where mergekit draws a million entries.
    """
    return block.deltas[0] * (_importance(block) >= prepared.data[block.name])


def _importance(block: Block) -> Tensor:
    """Return the importance of every entry, (rows, columns) float32."""
    base, delta = block.base.double(), block.deltas[0].double()
    model, before = (each.softmax(1) + _LEAST for each in (base + delta, base))
    divergence = (model * (model / before).log()).sum(1, keepdim=True)  # (rows, 1)
    return (delta.abs() * divergence).float()
