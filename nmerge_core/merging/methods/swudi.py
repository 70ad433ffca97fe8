"""Merge each matrix into the one whose difference from every change is least where that change acts."""

from __future__ import annotations

from functools import partial

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.compute.spectral import ZERO
from nmerge_core.merging.plan.spectral import SPECTRAL, Work, is_decomposed, merge_matrices, needs_of, prepare
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.values import Flag, Number


def _work(models: int, rows: int, columns: int) -> Work:
    return Work(min(columns, models * rows), 1, 8 * models + 4, 4 * models + 2)


@method(
    "swudi",
    title="SWUDI",
    paper="arXiv 2606.07289",
    summary="Solve for the change that differs least from each fine-tune's in the directions in which that one acts.",
    parameters=[
        *SPECTRAL,
        Number(
            name="steps",
            default=300.0,
            help="How far the solution goes from the sum of the changes, in steps t of the descent that it replaces.",
            low=0,
            high=2000,
            step=50,
            above_low=True,
            open_end=True,
        ),
        Number(
            name="rank_ratio",
            default=0.85,
            help="Share r of the input directions that are solved for, the strongest first.",
            low=0,
            high=1,
            step=0.05,
            above_low=True,
        ),
        Flag(
            name="adaptive",
            help="SWUDI-A: solve to the end for as many directions as the changes effectively have; no other choice.",
        ),
    ],
    whole=is_decomposed,
    prepare=prepare,
    needs=needs_of(_work),
)
def merge(block: Block, values: Values, prepared: Prepared) -> torch.Tensor:
    """Return λ · (θ(I − V f Vᵀ) + D V diag(f/μ) Vᵀ) with θ = Σ τ_t, C = Σ τ_tᵀτ_t/‖τ_t‖² = V diag(μ) Vᵀ, τ weighted.

    D = Σ τ_t τ_tᵀτ_t/‖τ_t‖²; f = 1 − exp(−μt) on the top ⌈r · columns⌉ eigenvalues, or with `adaptive` 1 on the top
    ⌈(Σ√μ)²/Σμ⌉, else 0.
    """
    chosen = None if values.shared["adaptive"] else (values.shared["steps"], values.shared["rank_ratio"])
    return merge_matrices(block, values, prepared, partial(_solved, chosen=chosen))


def _solved(deltas: torch.Tensor, chosen: tuple[float, float] | None) -> torch.Tensor:
    """Merge deltas (T, rows, columns); `chosen` are t and r, or none."""
    total = deltas.sum(0)  # (rows, columns)
    unit = deltas / deltas.flatten(1).norm(dim=1)[:, None, None]
    stacked = unit.flatten(0, 1)  # (T · rows, columns), C = stackedᵀ stacked
    rows, columns = stacked.shape
    if columns <= rows:
        values, vectors = torch.linalg.eigh(stacked.T @ stacked)  # rising
    else:
        values, other = torch.linalg.eigh(stacked @ stacked.T)
        vectors = stacked.T @ other  # each of length √μ
    real = values > ZERO**2 * values[-1]
    values, vectors = values[real].flip(0), vectors[:, real].flip(1)  # (k,), (columns, k)
    if columns > rows:
        vectors = vectors / values.sqrt()
    if chosen is None:
        roots = values.sqrt().sum()
        filled = torch.ones_like(values)
        filled[int(torch.ceil(roots**2 / values.sum())) :] = 0
    else:
        steps, ratio = chosen
        filled = -torch.expm1(-values * steps)
        filled[int(-(-ratio * columns // 1)) :] = 0
    seen = total @ vectors  # (rows, k)
    target = (deltas @ (unit.transpose(1, 2) @ (unit @ vectors))).sum(0)  # D V, (rows, k)
    return total + (target * (filled / values) - seen * filled) @ vectors.T
