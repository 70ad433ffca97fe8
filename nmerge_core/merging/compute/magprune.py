"""Dropping at random, the smaller of a row more often (DELLA's MagPrune), and merges of what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nmerge_core.checkpoints.raw_bits import RawBits
from nmerge_core.compiler import compiled, inlined
from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block, Entries
from nmerge_core.merging.compute.drop import Drop, draw
from nmerge_core.merging.compute.kernels import (
    add_weighted,
    divide,
    finite,
    narrow,
    scale_and_add,
    subtract,
    sum_elected,
    widen,
)
from nmerge_core.merging.compute.primitives import divided, elected_sum, random_bits, weighted_sum

_RANDOM = 2.0**32  # how many numbers may be drawn
_MOST = np.float32(2**32 - 2**8)  # the largest float32 that is a number of 32 bits
_DIGIT = np.uint64(8)  # bits that one pass of a sort goes by
_DIGITS = 4
_VALUES = 1 << 8
_LAST = np.uint64(_VALUES - 1)
_MAGNITUDE = np.uint32(0x7FFFFFFF)  # a float's bits without its sign
_PLACE = np.uint64(32)  # from where on a number that is sorted holds its key


@dataclass(frozen=True)
class MagPrune:
    """θ0 + λ · Σ_t w_t k_t(τ_t), over `divisor`; with `elect` of what agrees with the sign of the sum, as TIES.

    k_t keeps the entry of rank i of n in its row, the smallest magnitude being i = 1 and equal ones in their order,
    with the chance density − ε + 2ε (i − 1)/(n − 1), and divides it by that if `rescale`. It is kept where 32 random
    bits, those of `Drop`, are below chance · 2³². Of density 1 all is kept.
    """

    weights: Sequence[float]
    scale: float
    densities: Sequence[float]
    epsilons: Sequence[float]
    rescale: bool
    seed: int
    elect: bool
    normalize: bool
    divisor: float

    def states(self, name: str) -> NDArray[np.uint64]:
        """Return of each model the state that its random numbers start from for a tensor."""
        return Drop(self.densities, False, self.seed).states(name)

    def merge(self, block: Block) -> torch.Tensor:
        """Return the merged delta of a block, (rows, columns) float32."""
        kept = block.deltas.clone()
        models = zip(kept, self.states(block.name), self.densities, self.epsilons, strict=True)
        for delta, state, density, epsilon in models:
            if density < 1:
                chance = chances(delta, density, epsilon)
                drawn = random_bits(int(state), block.first, delta.numel(), delta.device).view(delta.shape)
                delta *= drawn < (chance * _RANDOM).long()
                if self.rescale:
                    delta /= chance
        if self.elect:
            total = elected_sum(kept, self.weights, self.normalize)
        else:
            total = divided(weighted_sum(kept, self.weights), self.divisor)
        return total.mul_(self.scale)

    def merge_entries(self, entries: Entries, merged: RawBits) -> bool:
        """Write merged entries to `merged` (n,); return whether all that was read is finite."""
        models = zip(self.densities, self.epsilons, strict=True)
        return bool(
            _merge_pruned(
                entries.stored,
                entries.columns,
                np.array(self.weights, np.float32),
                np.array(self.densities, np.float32),
                np.stack([chances_by_rank(*each, entries.columns) for each in models]),
                self.rescale,
                self.states(entries.name),
                np.uint64(entries.first),
                self.elect,
                self.normalize,
                np.float32(self.divisor),
                np.float32(self.scale),
                merged,
            )
        )


def chances(delta: torch.Tensor, density: float, epsilon: float) -> torch.Tensor:
    """Return the chance of every entry of a delta (rows, columns) to be kept, by its magnitude's rank in its row."""
    order = delta.abs().argsort(dim=1, stable=True)
    rising = torch.from_numpy(chances_by_rank(density, epsilon, delta.shape[1])).to(delta.device)
    return torch.empty_like(delta).scatter_(1, order, rising.expand_as(delta))


def chances_by_rank(density: float, epsilon: float, columns: int) -> NDArray[np.float32]:
    """Return the chance of each of a row's entries to be kept, the smallest first: (columns,)."""
    place = np.linspace(-1, 1, columns) if columns > 1 else np.zeros(1)
    return (density + epsilon * place).astype(np.float32)


@compiled
def _merge_pruned(
    stored: RawBits,
    columns: int,
    weights: NDArray[np.float32],
    densities: NDArray[np.float32],
    by_rank: NDArray[np.float32],
    rescale: bool,
    states: NDArray[np.uint64],
    position: np.uint64,
    elect: bool,
    normalize: bool,
    divisor: np.float32,
    scale: np.float32,
    merged: RawBits,
) -> bool:
    """Merge the rows of `stored` (1 + T, rows · columns) into `merged` (rows · columns) as `MagPrune` says.

    `by_rank` (T, columns) are the chances of a row's entries, the smallest first; `states` those of the random numbers
    and `position` the place of the first entry in its tensor.

    Returns:
        Whether all of `stored` are finite.
    """
    models = len(weights)
    seen, bits = np.zeros(columns, np.uint32), np.zeros((1 + models, columns), np.uint32)
    total_bits, drawn = np.zeros(columns, np.uint32), np.zeros(columns, np.uint32)
    total, chance, room = total_bits.view(np.float32), np.zeros(columns, np.float32), np.zeros(columns, np.float32)
    keys, other = np.zeros(columns, np.uint64), np.zeros(columns, np.uint64)
    counts = np.zeros((_DIGITS, _VALUES), np.uint32)
    for start in range(0, stored.shape[1], columns):
        widen(stored[0, start : start + columns], bits[0], seen)
        total[:] = 0
        for model in range(models):
            widen(stored[1 + model, start : start + columns], bits[1 + model], seen)
            delta = bits[1 + model].view(np.float32)
            subtract(delta, bits[0].view(np.float32))
            if densities[model] < 1:
                ranked = _sort(bits[1 + model], keys, other, counts)
                for rank in range(columns):
                    chance[np.uint32(ranked[rank])] = by_rank[model, rank]
                draw(drawn, states[model], position + np.uint64(start))
                _prune(delta, chance, drawn, rescale)
            add_weighted(total, delta, weights[model])
        if elect:
            sum_elected(total, bits[1:], weights, normalize, chance, room)
        if divisor != 1:
            divide(total, divisor)
        scale_and_add(total, scale, bits[0].view(np.float32))
        narrow(total_bits, merged[start : start + columns])
    return finite(seen)


@inlined
def _prune(delta: NDArray[np.float32], chance: NDArray[np.float32], drawn: NDArray[np.uint32], rescale: bool) -> None:
    """Drop entries by their chances, and divide the rest by these if `rescale`, in place.

    A chance is 1 where density + ε is so in float32: 2³² is no number of 32 bits, and what becomes of it hangs on the
    processor.
    """
    for i in range(len(delta)):
        limit = np.uint32(min(chance[i] * np.float32(_RANDOM), _MOST))
        delta[i] *= np.float32((drawn[i] < limit) | (chance[i] >= 1))
    if rescale:
        for i in range(len(delta)):
            delta[i] /= chance[i]


@inlined
def _sort(
    bits: NDArray[np.uint32], keys: NDArray[np.uint64], other: NDArray[np.uint64], counts: NDArray[np.uint32]
) -> NDArray[np.uint64]:
    """Return `keys` or `other` with a row's entries by magnitude, equal ones in order; the lower half is the column.

    A digit after the other, the least first; one that is the same in all entries takes no pass.

    Args:
        bits: of the entries in float32, (columns,).
        keys: room for a magnitude and its column, (columns,).
        other: room for as many.
        counts: room for how many entries have each digit, (digits, values).
    """
    counts[:] = 0
    for i in range(len(bits)):
        keys[i] = np.uint64(bits[i] & _MAGNITUDE) << _PLACE | np.uint64(i)
        for digit in range(_DIGITS):
            counts[digit, keys[i] >> (_PLACE + _DIGIT * np.uint64(digit)) & _LAST] += np.uint32(1)
    for digit in range(_DIGITS):
        own, shift = counts[digit], _PLACE + _DIGIT * np.uint64(digit)
        if own[keys[0] >> shift & _LAST] == len(keys):
            continue
        before = np.uint32(0)
        for value in range(_VALUES):
            number = own[value]
            own[value] = before
            before = np.uint32(before + number)
        for key in keys:
            value = key >> shift & _LAST
            other[own[value]] = key
            own[value] += np.uint32(1)
        keys, other = other, keys
    return keys
