"""What one fine-tune is without its change along, or across, each neuron's base weights."""

from __future__ import annotations

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.compute.primitives import split_by_base, weighted_sum
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.shared_parameters import WEIGHT
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.values import Choice


@method(
    "subspace",
    title="Subspace ablation",
    paper="NeuroMerging, EMNLP 2025 (Fig. 1, Tables 6 and 12)",
    summary="Keep only the part of a fine-tune's change across (or along) each neuron's base weights.",
    parameters=[
        Choice(
            name="keep",
            default="orthogonal",
            help="The part of each neuron's change that is kept; 1-D tensors are kept whole.",
            choices=("orthogonal", "parallel"),
        ),
        WEIGHT,
    ],
)
def merge(block: Block, values: Values, prepared: None) -> torch.Tensor:
    """Return τ⊥ or τ∥ per weight neuron, unmasked, summed by weight where there are several models."""
    deltas = block.deltas
    if block.neuronal:
        coordinates, direction, orthogonal = split_by_base(block.deltas, block.base)
        deltas = orthogonal if values.shared["keep"] == "orthogonal" else coordinates * direction
    return weighted_sum(deltas, values.each["weight"])
