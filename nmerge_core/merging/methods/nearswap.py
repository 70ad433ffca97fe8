"""Take one model's weights where they are near the base's."""

from __future__ import annotations

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.shared_parameters import POSITION
from nmerge_core.merging.recipe.values import Values


@method(
    "nearswap",
    title="NearSwap",
    paper="mergekit",
    summary="Move every weight towards one model's, by no more than a step.",
    parameters=[POSITION.with_(default=0.0001, step=0.0001, high=0.01, open_end=True, help="The largest step.")],
    most=1,
)
def merge(block: Block, values: Values, prepared: None) -> torch.Tensor:
    """Return τ with every entry between −t and t: mergekit's min(1, t/|τ|) · τ."""
    step = values.shared["t"]
    return block.deltas[0].clamp(-step, step)
