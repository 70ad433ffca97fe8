"""Merge inside and across each weight neuron's base direction (NeuroMerging, EMNLP 2025)."""

from __future__ import annotations

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.compute.primitives import combine, split_by_base, trim
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.recipe.prepared import Prepared, Result
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.shared_parameters import LAMBDA_1, LAMBDA_2, MASK_RATIO, MERGE_FUNCTION
from nmerge_core.merging.recipe.values import Values

# Components of a unit singular vector below this are rounding of the Gram matrix: the task is absent in that direction.
_ABSENT = 1e-6


def prepare(context: Context, values: Values) -> Prepared:
    """Find each model's mask threshold and σ, and from them λ2 = 1 / (1 − max σ) where it is auto (§3.4).

    The threshold is the (⌈r·d⌉ + 1)-th largest magnitude: the authors' code keeps d − ⌊(1 − r)·d⌋ + 1 entries.
    """
    found = context.magnitudes([values.shared["mask_ratio"]] * len(context.recipe.models), extra=1)
    sigma = [each.sigma for each in found]
    lambda_2 = values.shared["lambda_2"]
    if lambda_2 == "auto":
        lambda_2 = 1 / (1 - max(sigma))
    return Prepared(
        ([each.threshold for each in found], lambda_2),
        solved={"lambda_2": lambda_2},
        report={"lambda_2": lambda_2, "sigma": dict(zip(context.labels, sigma, strict=True))},
    )


@method(
    "neuromerging",
    title="NeuroMerging",
    paper="NeuroMerging, EMNLP 2025",
    summary="Split each neuron's change into a part along its base weights and a part across; merge the parts apart.",
    parameters=[MASK_RATIO, LAMBDA_1, LAMBDA_2, MERGE_FUNCTION],
    results=[
        Result("lambda_2", "λ2", "number", "Scale of the change across a neuron's base weights"),
        Result("sigma", "σ", "models", "Share of each model's change, by its L1 norm, that the mask leaves out"),
    ],
    prepare=prepare,
    passes=lambda values: 2,
)
def merge(block: Block, values: Values, prepared: Prepared) -> torch.Tensor:
    """Return λ1·(∥ part) + λ2·(⊥ part) per row of a 2-D weight, λ2·ψ of the masked deltas of a 1-D tensor (Alg. 1)."""
    thresholds, lambda_2 = prepared.data
    masked = trim(block.deltas, thresholds)  # (T, rows, columns)
    psi = values.shared["merge_function"]
    if not block.neuronal:
        return combine(masked, psi) * lambda_2
    parallel, direction, orthogonal = split_by_base(masked, block.base)
    merged = merge_orthogonal(orthogonal, psi) * lambda_2
    lambda_1 = values.shared["lambda_1"]
    return merged + lambda_1 * combine(parallel, psi) * direction if lambda_1 else merged


def merge_orthogonal(orthogonal: torch.Tensor, merge_function: str) -> torch.Tensor:
    """Merge τ⊥ (T, rows, columns) along the right singular vectors of each row's (T, columns) matrix (§3.4).

    With the SVD U S Vᵀ, task t has the coordinate U_ti S_i along v_i, ψ merges them, and Σ_i ψ(U_·i S_i) v_i rebuilds
    the row. As v_i = Σ_t τ⊥_t U_ti / S_i and ψ scales with its argument, that is Σ_t τ⊥_t Σ_i ψ(U_·i) U_ti: only the
    eigenvectors U of the T × T Gram matrix are needed. A task without change in the row has no coordinates.
    """
    rows_first = orthogonal.transpose(0, 1)  # (rows, T, columns)
    gram = rows_first @ rows_first.transpose(1, 2)  # (rows, T, T)
    _, vectors = torch.linalg.eigh(gram.double())  # columns i of (rows, T, T) are U_·i
    present = gram.diagonal(dim1=1, dim2=2) > 0  # (rows, T)
    vectors = torch.where((vectors.abs() > _ABSENT) & present.unsqueeze(-1), vectors, 0.0)
    coordinates = combine(vectors.transpose(0, 1), merge_function)  # ψ over tasks per direction: (rows, i)
    shares = (vectors @ coordinates.unsqueeze(-1)).squeeze(-1)  # (rows, T)
    return torch.einsum("rt,rtc->rc", shares.to(orthogonal.dtype), rows_first)
