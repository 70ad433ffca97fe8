"""The sum of the task vectors."""

import torch

from nmerge_core.merging.block import Block
from nmerge_core.merging.parameters import LAMBDA, NORMALIZE, WEIGHT
from nmerge_core.merging.primitives import total_weight, weighted_sum
from nmerge_core.merging.registry import Values, method


@method(
    "task_arithmetic",
    title="Task arithmetic",
    paper="Ilharco et al., ICLR 2023",
    summary="Add the weighted sum of what each fine-tune changed to the base.",
    parameters=[WEIGHT, LAMBDA, NORMALIZE],
)
def merge(block: Block, values: Values, facts: None) -> torch.Tensor:
    """Return λ Σ w_t τ_t (NeuronMerge Eq. 3)."""
    weights = values.each["weight"]
    scale = values.shared["lambda"] / (total_weight(weights) if values.shared["normalize"] else 1.0)
    return weighted_sum(block.deltas, weights) * scale
