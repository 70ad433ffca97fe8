"""The best low-rank approximation of a matrix that is read in chunks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Factors:
    """left (rows, r) @ right (r, columns) ≈ M, float32 on the CPU, with ‖M‖² and the share of it that they capture."""

    left: torch.Tensor
    right: torch.Tensor
    energy: float
    captured: float


def truncated_svd(chunks: Callable[[], Iterator[torch.Tensor]], rank: int) -> Factors:
    """Factor M (rows, columns ≤ rows), which `chunks()` gives by rows in float64, as left = U√S and right = √S·Vᵀ.

    The optimum in the Frobenius norm (Eckart & Young 1936), by the eigenvectors V of MᵀM = V S² Vᵀ: left @ right is
    M V Vᵀ for the first `rank` of them, so at full rank it is M but for rounding. Singular values below 1e-8 of the
    largest are lost in the rounding of MᵀM; they are below that of float32 weights. M is read twice; held are a chunk
    and a few (columns, columns) float64 matrices.
    """
    gram = sum((chunk.T @ chunk for chunk in chunks()), torch.zeros(()))  # (columns, columns)
    energies, vectors = torch.linalg.eigh(gram)  # ascending
    energies, vectors = energies.flip(0)[:rank].clamp(min=0), vectors.flip(1)[:, :rank]
    roots = energies**0.25  # √S
    left = torch.cat([chunk @ vectors for chunk in chunks()]) * torch.where(roots > 0, 1 / roots, 0.0)
    energy = gram.trace().item()
    captured = min(1.0, energies.sum().item() / energy) if energy else 1.0
    return Factors(left.float().cpu(), (vectors * roots).T.float().cpu(), energy, captured)
