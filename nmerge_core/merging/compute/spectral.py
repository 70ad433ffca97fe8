"""Singular values and vectors, by eigenvalues of the smaller side's Gram matrix, in float64.

Nothing here depends on the signs or the order of singular vectors. Directions whose singular value is below `ZERO` of
the largest count as none: an SVD fills them arbitrarily.
"""

from __future__ import annotations

from dataclasses import dataclass

from nmerge_core.lazy import torch

ZERO = 1e-6


@dataclass(frozen=True)
class Singular:
    """M = U diag(S) Vᵀ with S falling, without what counts as zero: U (m, k), S (k,), V (n, k), all float64."""

    left: torch.Tensor
    sizes: torch.Tensor
    right: torch.Tensor

    def top(self, count: int) -> Singular:
        """Return the strongest directions."""
        return Singular(self.left[:, :count], self.sizes[:count], self.right[:, :count])


def singular(matrix: torch.Tensor) -> Singular:
    """Return the singular values and vectors of a matrix (m, n) that are not zero."""
    if matrix.shape[0] > matrix.shape[1]:
        turned = singular(matrix.T)
        return Singular(turned.right, turned.sizes, turned.left)
    matrix = matrix.double()
    values, vectors = torch.linalg.eigh(matrix @ matrix.T)  # rising: (m,), (m, m)
    sizes = values.clamp(min=0).sqrt().flip(0)
    real = sizes > ZERO * sizes[:1]
    left, sizes = vectors.flip(1)[:, real], sizes[real]
    return Singular(left, sizes, matrix.T @ left / sizes)


def polar(columns: torch.Tensor) -> torch.Tensor:
    """Return the orthogonal factor U (UᵀU)^(−1/2) of U (m, k), k ≤ m; of dependent columns on what they span."""
    values, vectors = torch.linalg.eigh(columns.T @ columns)  # (k,), (k, k)
    real = values > ZERO**2 * values[-1:]
    return (columns @ vectors[:, real]) / values[real].sqrt() @ vectors[:, real].T
