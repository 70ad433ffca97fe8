"""Make every direction of the summed change equally strong."""

from __future__ import annotations

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.compute.spectral import singular
from nmerge_core.merging.plan.spectral import (
    EMBEDDINGS,
    MATRICES,
    Work,
    is_decomposed,
    merge_matrices,
    needs_of,
    prepare,
)
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.shared_parameters import LAMBDA, WEIGHT
from nmerge_core.merging.recipe.values import Values

# Of its own help, so that as a part of NeuronMerge it has its own default too.
SCALE = LAMBDA.with_(default=1.5, help="Scale λ of the merged change, whose directions are all of mean strength.")


@method(
    "iso_c",
    title="Iso-C",
    paper="Marczak et al., ICML 2025",
    summary="Add up the changes of each matrix, and give all directions of the sum their mean strength.",
    parameters=[WEIGHT, SCALE, MATRICES, EMBEDDINGS],
    whole=is_decomposed,
    prepare=prepare,
    needs=needs_of(lambda models, rows, columns: Work(min(rows, columns), 1, 6, models + 2)),
)
def merge(block: Block, values: Values, prepared: Prepared) -> torch.Tensor:
    """Return λ · mean(S) · U Vᵀ of Σ w_t τ_t = U diag(S) Vᵀ, the mean over min(rows, columns) singular values.

    Directions below 1e-6 of the strongest stay zero, where the paper's SVD fills them arbitrarily.
    """
    return merge_matrices(block, values, prepared, _isotropic)


def _isotropic(deltas: torch.Tensor) -> torch.Tensor:
    total = deltas.sum(0)  # (rows, columns)
    found = singular(total)
    return (found.sizes.sum() / min(total.shape)) * (found.left @ found.right.T)
