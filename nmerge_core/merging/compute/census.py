"""How many entries of each size a family's changes have: what answers any later question for a share of the largest.

A magnitude's key is its bits as a whole number; keys are ordered as magnitudes are. Those that agree but for the lowest
15 bits are one bin. Of a bin are kept how many there are and the sum of those lowest bits, whole numbers both: sums of
magnitudes that are made of them are exact, so no order of summing can change them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nmerge_core.compiler import compiled
from nmerge_core.lazy import torch
from nmerge_core.merging.compute.order_statistics import (
    Window,
    by_magnitude,
    count_entries,
    kept_entries,
    look_through,
    value_of,
)
from nmerge_core.merging.compute.stream import Rows, Stream
from nmerge_core.parallel import in_order
from nmerge_core.progress import Progress

_BITS = 15  # of a key, that tell magnitudes of one bin apart
_LOWEST = (1 << _BITS) - 1
_INFINITE = 0x7F800000  # the largest key: a difference of finite weights may be infinite
_BINS = (_INFINITE >> _BITS) + 1
_MANTISSA_BITS = 23
_STEPS_OF_1 = 1 << 149  # the least float32 above 0 is 2⁻¹⁴⁹, and every other is a whole number of those


@dataclass(frozen=True)
class Census:
    """Of each model's |τ| how many lie in each bin, and the sum of the lowest bits of their keys: (T, bins) int64."""

    counts: NDArray[np.int64]
    lows: NDArray[np.int64]

    def bin_of(self, model: int, rank: int) -> int:
        """Return the bin of the `rank`-th largest."""
        down_to = np.cumsum(self.counts[model, ::-1])
        return _BINS - 1 - int(np.searchsorted(down_to, rank))

    def steps_from(self, model: int, first: int) -> int:
        """Return the sum of all from the bin `first` on, exact, in steps of 2⁻¹⁴⁹."""
        bins = np.flatnonzero(self.counts[model, first:]) + first
        found = zip(bins.tolist(), self.counts[model, bins].tolist(), self.lows[model, bins].tolist(), strict=True)
        return sum(_steps(each << _BITS, count, low) for each, count, low in found)


@dataclass(frozen=True)
class Magnitudes:
    """Of one model's |τ|: the threshold that keeps the asked share, and L1 norms before and after the trim."""

    threshold: float
    l1: float
    l1_kept: float

    @property
    def sigma(self) -> float:
        """σ: the share of the L1 norm that the trim masks out (NeuroMerging §3.4); 0 for a model equal to the base."""
        return (self.l1 - self.l1_kept) / self.l1 if self.l1 else 0.0


def take_census(stream: Stream, rows: Sequence[Rows], progress: Progress) -> Census:
    """Count the |τ| of all `rows`, in one pass."""
    ranking = by_magnitude(stream, rows)
    idle: list[Census] = []  # what threads count in: as many as are at work at once

    def work(each: Rows) -> None:
        own = idle.pop() if idle else _no_entries(len(stream.models))
        for model, values in enumerate(ranking.values(each)):
            if isinstance(values, np.ndarray):
                _count(values.view(np.int32), own.counts[model], own.lows[model])
            elif values.is_cuda:
                _count_on_device(values, own.counts[model], own.lows[model])
            else:
                _count(values.numpy().view(np.int32), own.counts[model], own.lows[model])
        idle.append(own)

    for done, _ in enumerate(in_order(work, rows, with_torch=ranking.with_torch)):
        progress("Counting magnitudes", done, len(rows), "blocks")
    whole = _no_entries(len(stream.models))
    for own in idle:
        whole.counts[:] += own.counts
        whole.lows[:] += own.lows
    return whole


def magnitudes(
    stream: Stream,
    rows: Sequence[Rows],
    census: Census,
    densities: Sequence[float],
    progress: Progress,
    *,
    extra: int = 0,
) -> list[Magnitudes]:
    """Find, per model, the (⌈density · d⌉ + extra)-th largest |τ| over all `rows` (d entries) by a census of them.

    One pass over the rows tells the magnitudes of the threshold's bin apart. Sums are exact, and rounded once.
    """
    entries = count_entries(stream, rows)
    ranks = [min(entries, kept_entries(entries, density) + extra) for density in densities]
    bins = [census.bin_of(model, rank) for model, rank in enumerate(ranks)]
    windows = [Window(bin_ << _BITS, min((bin_ + 1 << _BITS) - 1, _INFINITE)) for bin_ in bins]
    look_through(rows, by_magnitude(stream, rows), list(enumerate(windows)), "Magnitudes", progress)
    found = []
    for model, (rank, bin_, window) in enumerate(zip(ranks, bins, windows, strict=True)):
        least = window.key(rank)
        kept = sum(_steps(key, count) for key, count in window.counted(least))
        kept += census.steps_from(model, bin_ + 1)
        every = census.steps_from(model, 0)
        found.append(Magnitudes(value_of(least), every / _STEPS_OF_1, kept / _STEPS_OF_1))
    return found


def _steps(key: int, count: int, low: int = 0) -> int:
    """Return the sum of magnitudes of one bin in steps of 2⁻¹⁴⁹: `count` keys that are `key` each, and `low` in all."""
    exponent = key >> _MANTISSA_BITS
    mantissa = (key & (1 << _MANTISSA_BITS) - 1) + ((1 << _MANTISSA_BITS) if exponent else 0)
    return count * mantissa + low << max(0, exponent - 1)


def _no_entries(models: int) -> Census:
    return Census(np.zeros((models, _BINS), np.int64), np.zeros((models, _BINS), np.int64))


@compiled
def _count(keys: NDArray[np.int32], counts: NDArray[np.int64], lows: NDArray[np.int64]) -> None:
    """Count keys in their bins."""
    for key in keys:
        counts[key >> _BITS] += 1
        lows[key >> _BITS] += key & _LOWEST


def _count_on_device(values: torch.Tensor, counts: NDArray[np.int64], lows: NDArray[np.int64]) -> None:
    keys = values.contiguous().view(torch.int32)
    bins = keys >> _BITS
    counts += torch.bincount(bins, minlength=_BINS).cpu().numpy()
    # In float64, which holds these whole numbers.
    lows += torch.bincount(bins, (keys & _LOWEST).double(), minlength=_BINS).long().cpu().numpy()
