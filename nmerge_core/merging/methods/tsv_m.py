"""Merge each fine-tune's strongest directions, made orthogonal to those of the others."""

from __future__ import annotations

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.compute.spectral import polar, singular
from nmerge_core.merging.plan.spectral import SPECTRAL, Work, is_decomposed, merge_matrices, needs_of, prepare
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.values import Values


@method(
    "tsv_m",
    title="TSV-M",
    paper="Gargiulo et al., CVPR 2025",
    summary="Keep each fine-tune's strongest directions, and turn those of different ones orthogonal to each other.",
    when="Without texts: a lower loss than task arithmetic at its best weight on both families measured, on "
    "one of them by more than chance.",
    parameters=[*SPECTRAL],
    whole=is_decomposed,
    prepare=prepare,
    needs=needs_of(lambda models, rows, columns: Work(min(rows, columns), models + 2, 4 * models + 8, 2 * models + 3)),
)
def merge(block: Block, values: Values, prepared: Prepared) -> torch.Tensor:
    """Return λ · P(U) diag(S) P(V)ᵀ of the top ⌊min(rows, columns)/T⌋ singular triples of each w_t τ_t, side by side.

    P is the polar factor. Directions that several models share count once, where the paper's SVD fills up arbitrarily.
    """
    share = len(block.deltas)
    return merge_matrices(block, values, prepared, lambda deltas: _orthogonal(deltas, share))


def _orthogonal(deltas: torch.Tensor, share: int) -> torch.Tensor:
    count = max(1, min(deltas.shape[1:]) // share)
    found = [singular(delta).top(count) for delta in deltas]
    left, right = (polar(torch.cat([getattr(each, side) for each in found], 1)) for side in ("left", "right"))
    return left * torch.cat([each.sizes for each in found]) @ right.T
