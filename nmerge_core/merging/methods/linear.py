"""Weighted average of the models' weights."""

import torch

from nmerge_core.merging.block import Block
from nmerge_core.merging.parameters import NORMALIZE, WEIGHT, with_default
from nmerge_core.merging.primitives import total_weight, weighted_sum
from nmerge_core.merging.registry import Values, method


@method(
    "linear",
    title="Averaging",
    paper="Wortsman et al., Model soups, ICML 2022",
    summary="The weighted mean of the models' weights; no base is needed.",
    parameters=[WEIGHT, with_default(NORMALIZE, True)],
    needs_base=False,
)
def merge(block: Block, values: Values, facts: None) -> torch.Tensor:
    """Return Σ w θ_t, over Σ w if `normalize`; without a base the block's deltas are the weights themselves."""
    weights = values.each["weight"]
    total = weighted_sum(block.deltas, weights)
    return total / total_weight(weights) if values.shared["normalize"] else total
