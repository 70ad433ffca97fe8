"""Merges of each entry by itself: said once, computed by compiled loops on a CPU, by torch elsewhere."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nmerge_core.checkpoints.words import Words
from nmerge_core.errors import InputError
from nmerge_core.merging.block import Block, Entries

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Drop:
    """DARE's drop: each model's entries are kept with its probability `densities`, over that density if `rescale`.

    Entry i of a tensor is kept where the upper 32 bits of the i-th number of a SplitMix64 generator (Steele et al.,
    OOPSLA 2014) are below density · 2³². It starts from a hash of (seed, model position, tensor name), and any number
    of it can be drawn by itself: what is kept does not depend on blocks, order or device.
    """

    densities: Sequence[float]
    rescale: bool
    seed: int

    @property
    def limits(self) -> NDArray[np.uint64]:
        """Of each model, the number below which 32 random bits keep their entry."""
        return np.array([round(density * 2**32) for density in self.densities], dtype=np.uint64)

    @property
    def scales(self) -> NDArray[np.float32]:
        """Of each model, what is kept is multiplied by this: exactly 1/(1 − p)."""
        return np.array([1 / density if self.rescale else 1 for density in self.densities], dtype=np.float32)

    def states(self, name: str) -> NDArray[np.uint64]:
        """Of each model, the state that the generator starts from for a tensor."""
        texts = [f"{self.seed} {model} {name}" for model in range(len(self.densities))]
        digests = [hashlib.sha256(text.encode()).digest() for text in texts]
        return np.array([int.from_bytes(digest[:8], "little") for digest in digests], dtype=np.uint64)


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
        from nmerge_core.merging import primitives

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

    def merge_entries(self, entries: Entries, merged: Words) -> bool:
        """Write merged entries to `merged` (n,); return whether all that was read is finite."""
        from nmerge_core.merging import kernels  # takes half a second

        drop = self.drop or Drop((), False, 0)
        return kernels.merge_entries(
            entries.words,
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
