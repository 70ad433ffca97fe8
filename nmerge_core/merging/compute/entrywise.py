"""Merges of each entry by itself: said once, computed by compiled loops on a CPU, by torch elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nmerge_core.checkpoints.raw_bits import RawBits
from nmerge_core.errors import InputError
from nmerge_core.merging.compute import primitives
from nmerge_core.merging.compute.block import Block, Entries
from nmerge_core.merging.compute.drop import Drop

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Entrywise:
    """θ0 + λ · Σ_t w_t k_t(τ_t); without a base λ · Σ_t w_t θ_t.

    `scale` is λ, `weights` are w. k_t keeps what `drop` leaves, or entries of magnitude at least `thresholds`. With
    `elect` only what agrees with the sign of the sum is summed (TIES). With `normalize` the sum is divided by Σ w, or
    where signs are elected by Σ |w| of what agrees. Both ways of computing it round each operation once, in float32
    and in the same order: they give the same bits.
    """

    weights: Sequence[float]
    scale: float = 1.0
    normalize: bool = False
    thresholds: Sequence[float] = ()
    drop: Drop | None = None
    elect: bool = False

    @property
    def divisor(self) -> float:
        """Σ w where the sum is divided by it, else 1; raises InputError where it is 0."""
        return total_weight(self.weights) if self.normalize and not self.elect else 1.0

    def merge(self, block: Block) -> "torch.Tensor":
        """Return the merged delta of a block, (rows, columns) float32."""
        deltas = block.deltas
        if self.thresholds:
            deltas = primitives.trim(deltas, self.thresholds)
        if self.drop:
            deltas = primitives.drop(deltas, self.drop, block.name, block.first)
        if self.elect:
            total = primitives.elected_sum(deltas, self.weights, self.normalize)
        else:
            total = primitives.weighted_sum(deltas, self.weights)
        return primitives.divided(total, self.divisor).mul_(self.scale)

    def merge_entries(self, entries: Entries, merged: RawBits) -> bool:
        """Write merged entries to `merged` (n,); return whether all that was read is finite."""
        from nmerge_core.merging.compute import kernels  # takes half a second

        drop = self.drop or Drop((), False, 0)
        return kernels.merge_entries(
            entries.stored,
            entries.differences,
            np.array(self.weights, dtype=np.float32),
            np.array(self.thresholds, dtype=np.float32),
            drop.states(entries.name),
            np.uint64(entries.first),
            drop.limits,
            drop.scales,
            self.elect,
            self.normalize,
            np.float32(self.divisor),
            np.float32(self.scale),
            merged,
        )


def total_weight(weights: Sequence[float]) -> float:
    """Return Σ w_t to divide by; raises InputError where it is 0."""
    total = sum(weights)
    if not total:
        raise InputError(f"recipe, key 'weight': expected weights that do not sum to 0 with normalize, found {weights}")
    return total
