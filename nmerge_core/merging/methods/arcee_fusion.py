"""Take one model's weights where the change matters most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.compute.order_statistics import Ranking
from nmerge_core.merging.compute.stream import Rows, Stream
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.values import Values

if TYPE_CHECKING:
    from torch import Tensor

_LEAST = 1e-8  # that mergekit adds to every probability


def prepare(context: Context, values: Values) -> Prepared:
    """Find the least importance that is taken, in each tensor."""

    def quarters(name: str, entries: int) -> list[list[int]]:
        return [[entries - int(share * (entries - 1)) for share in (0.25, 0.5, 0.75)]]

    found = context.tensor_statistics(quarters, _by_importance)
    return Prepared({name: middle + 1.5 * (high - low) for name, ((low, middle, high),) in found.items()})


def _by_importance(stream: Stream, rows: Sequence[Rows]) -> Ranking:
    return Ranking(lambda each: _importance(stream.load(each)).flatten()[None])  # (1, entries)


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
