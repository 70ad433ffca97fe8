"""Take back what shared directions were counted too often in what was merged (Singular Value Calibration)."""

from __future__ import annotations

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.compute.spectral import ZERO, singular
from nmerge_core.merging.plan.spectral import (
    EMBEDDINGS,
    MATRICES,
    Work,
    changed_matrices,
    is_decomposed,
    needs_of,
    prepare,
)
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.values import Number


@method(
    "svc",
    title="SVC",
    paper="Singular Value Calibration, ICML 2026",
    summary="Weaken the directions of each matrix that the models share, which a merge counts once for each of them.",
    parameters=[
        Number(
            name="alpha",
            default=0.1,
            help="Least overlap α of a model with a direction: a direction becomes stronger by 1/α at most.",
            low=0,
            high=1,
            step=0.05,
            above_low=True,
        ),
        MATRICES.with_(
            help="The matrices whose directions are weighed: all of the layers, or the MLPs' alone, which takes less "
            "time; others stay as they were merged."
        ),
        EMBEDDINGS.with_(help="Weigh the directions of embeddings and head too; else they stay as they were merged."),
    ],
    step=True,
    whole=is_decomposed,
    prepare=prepare,
    needs=needs_of(lambda models, rows, columns: Work(min(rows, columns), 1, 2 * models + 6, 2 * models + 3)),
)
def merge(block: Block, values: Values, prepared: Prepared) -> torch.Tensor:
    """Return Σ_r γ_r σ_r u_r v_rᵀ of what was merged, Σ_r σ_r u_r v_rᵀ, with γ_r = T / Σ_t max(α, s_rt).

    s_rt = ⟨σ_r v_r, a_rt⟩ / ‖a_rt‖² with a_rt = u_rᵀ τ_t says how much more of model t's answer in direction u_r there
    is than its own; 0 where the model has none there. A model that changed nothing in the matrix does not count, nor do
    weights. (The authors' code has γ_r = 1 where some s_rt ≤ 0, else 1 / max(α, mean s_rt); this is the paper's.)
    Directions of one singular value are told apart arbitrarily, as by any SVD. Vectors stay as they were merged.
    """
    if not is_decomposed(block, values):
        return block.change
    merged = block.change.clone()
    for rows, deltas in changed_matrices(block.name, block.deltas, prepared):
        merged[rows] = _calibrated(merged[rows].double(), deltas, values.shared["alpha"])
    return merged


def _calibrated(change: torch.Tensor, deltas: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return a merged matrix (m, n) with calibrated singular values; deltas are (T, m, n), all float64."""
    found = singular(change)
    answers = found.left.T @ deltas  # a, (T, k, n)
    lengths = answers.norm(dim=2)  # (T, k)
    none = lengths <= ZERO * deltas.flatten(1).norm(dim=1, keepdim=True)
    inside = (answers * (found.sizes[:, None] * found.right.T)).sum(2)  # (T, k)
    overlap = torch.where(none, 0.0, inside / torch.where(none, 1.0, lengths) ** 2)  # s
    gain = len(deltas) / overlap.clamp(min=alpha).sum(0)  # γ, (k,)
    return change + found.left * (found.sizes * (gain - 1)) @ found.right.T
