"""Merges of each entry by itself: said once, computed by a compiled loop on a CPU, by torch elsewhere.

The rule and its loop stand together: a step that is added to one is added to the other, in the same order. A method
with a step of its own brings a rule of its own, made of `kernels` in the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from nmerge_core.checkpoints.raw_bits import RawBits
from nmerge_core.compiler import compiled
from nmerge_core.errors import InputError
from nmerge_core.merging.compute import primitives
from nmerge_core.merging.compute.block import Block, Entries
from nmerge_core.merging.compute.drop import Drop, drop_entries
from nmerge_core.merging.compute.kernels import (
    CHUNK,
    add_weighted,
    cut,
    divide,
    finite,
    narrow,
    scale_and_add,
    subtract,
    sum_elected,
    trim,
    widen,
)

if TYPE_CHECKING:
    import torch


class Rule(Protocol):
    """How a tensor is merged entry by entry, in two ways that give the same bits."""

    def merge(self, block: Block) -> "torch.Tensor":
        """Return the merged delta of a block, (rows, columns) float32."""

    def merge_entries(self, entries: Entries, merged: RawBits) -> bool:
        """Write merged entries to `merged` (n,); return whether all that was read is finite."""


@dataclass(frozen=True)
class Entrywise:
    """θ0 + λ · (b θ0 + Σ_t w_t k_t(τ_t)); without a base λ · Σ_t w_t θ_t.

    `scale` is λ, `weights` are w, `of_base` is b. k_t keeps what `drop` leaves, or entries of magnitude at least
    `thresholds` and below `ceilings`. With `elect` only what agrees with the sign of the sum is summed (TIES). With
    `normalize` the sum is divided by Σ w, or where signs are elected by Σ |w| of what agrees. Both ways of computing it
    round each operation once, in float32 and in the same order: they give the same bits.
    """

    weights: Sequence[float]
    scale: float = 1.0
    normalize: bool = False
    thresholds: Sequence[float] = ()
    ceilings: Sequence[float] = ()
    drop: Drop | None = None
    elect: bool = False
    of_base: float = 0.0

    @property
    def divisor(self) -> float:
        """Σ w where the sum is divided by it, else 1; raises InputError where it is 0."""
        return total_weight(self.weights) if self.normalize and not self.elect else 1.0

    def merge(self, block: Block) -> "torch.Tensor":
        """Return the merged delta of a block, (rows, columns) float32."""
        deltas = block.deltas
        if self.thresholds:
            deltas = primitives.trim(deltas, self.thresholds)
        if self.ceilings:
            deltas = primitives.cut(deltas, self.ceilings)
        if self.drop:
            deltas = primitives.drop(deltas, self.drop, block.name, block.first)
        if self.elect:
            total = primitives.elected_sum(deltas, self.weights, self.normalize)
        else:
            total = primitives.weighted_sum(deltas, self.weights)
        if self.of_base:
            total.add_(block.base * self.of_base)
        return primitives.divided(total, self.divisor).mul_(self.scale)

    def merge_entries(self, entries: Entries, merged: RawBits) -> bool:
        """Write merged entries to `merged` (n,); return whether all that was read is finite."""
        drop = self.drop or Drop((), False, 0)
        return _merge_entries(
            entries.stored,
            entries.differences,
            np.array(self.weights, dtype=np.float32),
            np.array(self.thresholds, dtype=np.float32),
            np.array(self.ceilings, dtype=np.float32),
            drop.states(entries.name),
            np.uint64(entries.first),
            drop.limits,
            drop.scales,
            self.elect,
            self.normalize,
            np.float32(self.of_base),
            np.float32(self.divisor),
            np.float32(self.scale),
            merged,
        )


@compiled
def _merge_entries(
    stored: RawBits,
    differences: bool,
    weights: NDArray[np.float32],
    thresholds: NDArray[np.float32],
    ceilings: NDArray[np.float32],
    states: NDArray[np.uint64],
    position: np.uint64,
    limits: NDArray[np.uint64],
    kept_scale: NDArray[np.float32],
    elect: bool,
    normalize: bool,
    of_base: np.float32,
    divisor: np.float32,
    scale: np.float32,
    merged: RawBits,
) -> bool:
    """Merge the entries of `stored` (sources, n) into `merged` (n,) as `Entrywise` says.

    Args:
        stored: the base first if `differences`, then the models (T).
        differences: whether differences from the base are merged and added to it.
        weights: w, (T,).
        thresholds: the least |τ| that is kept, (T,), or none.
        ceilings: the least |τ| that is too large to be kept, (T,), or none.
        states: of each model's random numbers, or none; an entry is kept where 32 bits are below `limits`, times
            `kept_scale`.
        position: of the first entry in its tensor.
        elect: whether entries against the sign of the weighted sum are left out.
        normalize: where signs are elected, whether the sum is divided by Σ |w| of what agreed.
        of_base: how much of the base is added to the sum.
        divisor: what the sum is divided by.
        scale: what it is multiplied by.
        merged: where the entries go, rounded to the nearest, ties to even.

    Returns:
        Whether all of `stored` are finite.
    """
    models, first, length = len(weights), 1 if differences else 0, stored.shape[1]
    seen = np.zeros(CHUNK, np.uint32)
    base_bits = np.zeros(CHUNK, np.uint32)
    bits = np.zeros((models, CHUNK), np.uint32)
    total_bits = np.zeros(CHUNK, np.uint32)
    sign, agreed = np.zeros(CHUNK, np.float32), np.zeros(CHUNK, np.float32)
    for start in range(0, length, CHUNK):
        stop = min(start + CHUNK, length)
        count = stop - start
        base = base_bits.view(np.float32)[:count]
        total = total_bits.view(np.float32)[:count]
        if differences:
            widen(stored[0, start:stop], base_bits, seen)
        total[:] = 0
        for model in range(models):
            widen(stored[first + model, start:stop], bits[model], seen)
            delta = bits[model].view(np.float32)[:count]
            if differences:
                subtract(delta, base)
            if thresholds.size:
                trim(delta, thresholds[model])
            if ceilings.size:
                cut(delta, ceilings[model])
            if states.size:
                drop_entries(delta, states[model], position + np.uint64(start), limits[model], kept_scale[model])
            add_weighted(total, delta, weights[model])
        if elect:
            sum_elected(total, bits, weights, normalize, sign, agreed)
        if of_base != 0:
            add_weighted(total, base, of_base)
        if divisor != 1:
            divide(total, divisor)
        scale_and_add(total, scale, base)
        narrow(total_bits, merged[start:stop])
    return finite(seen)


def total_weight(weights: Sequence[float]) -> float:
    """Return Σ w_t to divide by; raises InputError where it is 0."""
    total = sum(weights)
    if not total:
        raise InputError(f"recipe, key 'weight': expected weights that do not sum to 0 with normalize, found {weights}")
    return total
