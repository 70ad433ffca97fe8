"""Average what models changed over those that changed it."""

from __future__ import annotations

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.values import Number


@method(
    "ram",
    title="RAM",
    paper="Reinforced Agent Merging, arXiv 2601.13572",
    summary="Keep whole what one model alone changed, and average what several changed.",
    parameters=[
        Number(
            name="epsilon",
            default=1e-5,
            help="A change no larger than this counts as none.",
            low=0,
            high=0.001,
            step=1e-5,
            varies=True,
            open_end=True,
        )
    ],
)
def merge(block: Block, values: Values, prepared: None) -> torch.Tensor:
    """Return Σ τ_t over the number of models that changed the entry, of changes with |τ_t| > ε."""
    changed = block.deltas.abs() > values.shared["epsilon"]  # (T, rows, columns)
    return (block.deltas * changed).sum(0) / changed.sum(0).clamp(min=1)
