"""Exact order statistics over tensors or whole models, streamed at the memory of a histogram."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import fsum

import numpy as np
import torch
from numpy.typing import NDArray

from nmerge_core.merging.block import Block
from nmerge_core.merging.primitives import kept_entries
from nmerge_core.merging.stream import Rows, Stream, in_order
from nmerge_core.progress import Progress

# Floats are ordered like their bits, once those of negative ones are flipped. The first pass counts the high 16 of the
# 32 bits, the second the low 16 inside the bins where the ranks that are asked for lie.
_LOW_BITS = 16
_BINS = 1 << 16
_FIRST = -(1 << 15)  # the lowest high half


@dataclass(frozen=True)
class Ranked:
    """The value of one rank, the largest being rank 1, and the sum of the values at least as large."""

    value: float
    tail: float


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


def magnitudes(
    stream: Stream, rows: Sequence[Rows], densities: Sequence[float], progress: Progress, *, extra: int = 0
) -> list[Magnitudes]:
    """Find, per model, the (⌈density · d⌉ + extra)-th largest |τ| over all `rows` (d entries), in two passes."""
    entries = count_entries(stream, rows)
    ranks = [[min(entries, kept_entries(entries, density) + extra), entries] for density in densities]
    found = order_statistics(stream, rows, lambda block: block.deltas.abs(), ranks, "Magnitudes", progress)
    return [Magnitudes(least.value, total.tail, least.tail) for least, total in found]


def count_entries(stream: Stream, rows: Sequence[Rows]) -> int:
    """Return d, the number of entries of all `rows` in one model."""
    matrix = stream.donor.architecture.matrix
    return sum((each.stop - each.start) * matrix(each.name).columns for each in rows)


def order_statistics(
    stream: Stream,
    rows: Sequence[Rows],
    values: Callable[[Block], torch.Tensor],
    ranks: Sequence[Sequence[int]],
    stage: str,
    progress: Progress,
) -> list[list[Ranked]]:
    """Find for each model the values of its `ranks` among `values(block)`, (T, …) float32, of all rows, in two passes.

    Exact, and independent of the order in which blocks are read: sums are float64, rounded once.
    """
    high = [_Histogram() for _ in ranks]
    for counts, sums in _pass(stream, rows, values, _count_high, f"{stage}, pass 1 of 2", progress):
        for histogram, count, sum_ in zip(high, counts, sums, strict=True):
            histogram.add(count, sum_)
    places = [[_locate(histogram.counts, rank) for rank in own] for histogram, own in zip(high, ranks, strict=True)]
    bins = [sorted({bin_ for _, bin_ in own}) for own in places]

    def count_low(keys: torch.Tensor, block: torch.Tensor) -> list[list[tuple[torch.Tensor, float]]]:
        return [[_count_low(k, b, bin_) for bin_ in own] for k, b, own in zip(keys, block, bins, strict=True)]

    low = [{bin_: _Histogram() for bin_ in own} for own in bins]
    for found in _pass(stream, rows, values, count_low, f"{stage}, pass 2 of 2", progress):
        for own, counted in zip(low, found, strict=True):
            for histogram, (count, sum_) in zip(own.values(), counted, strict=True):
                histogram.add(count, sum_)
    return [
        [_finish(own[bin_], bin_, rank - above) for rank, (above, bin_) in zip(asked, places_of, strict=True)]
        for own, asked, places_of in zip(low, ranks, places, strict=True)
    ]


class _Histogram:
    """Counts and a sum, gathered block by block."""

    def __init__(self) -> None:
        self.counts = np.zeros(_BINS, dtype=np.int64)
        self._sums: list[float] = []

    def add(self, counts: torch.Tensor, sum_: float) -> None:
        self.counts += counts.numpy()
        self._sums.append(sum_)

    @property
    def sum(self) -> float:
        return fsum(self._sums)


def _pass(
    stream: Stream,
    rows: Sequence[Rows],
    values: Callable[[Block], torch.Tensor],
    count: Callable,
    stage: str,
    progress: Progress,
) -> Iterator:
    total = sum(each.stop - each.start for each in rows)
    done = 0
    progress(stage, done, total, "rows")

    def work(each: Rows) -> object:
        block = values(stream.load(each)).flatten(1)  # (T, entries)
        bits = block.view(torch.int32)
        return count(bits ^ ((bits >> 31) & 0x7FFFFFFF), block)

    for each, result in zip(rows, in_order(work, rows), strict=True):
        yield result
        done += each.stop - each.start
        progress(stage, done, total, "rows")


def _count_high(keys: torch.Tensor, block: torch.Tensor) -> tuple[list[torch.Tensor], list[float]]:
    counts = [torch.bincount((each >> _LOW_BITS) - _FIRST, minlength=_BINS).cpu() for each in keys]
    return counts, block.sum(1, dtype=torch.float64).tolist()


def _count_low(keys: torch.Tensor, block: torch.Tensor, bin_: int) -> tuple[torch.Tensor, float]:
    """Count the low bits inside one high bin, and sum the values above that bin."""
    high = (keys >> _LOW_BITS) - _FIRST
    inside = keys[high == bin_] & (_BINS - 1)
    above = (block * (high > bin_)).sum(dtype=torch.float64).item()
    return torch.bincount(inside, minlength=_BINS).cpu(), above


def _locate(counts: NDArray[np.int64], rank: int) -> tuple[int, int]:
    """Return how many entries lie above the bin of the `rank`-th largest, and that bin."""
    cumulative = counts[::-1].cumsum()
    position = int(np.searchsorted(cumulative, rank))
    return int(cumulative[position] - counts[::-1][position]), len(counts) - 1 - position


def _finish(histogram: _Histogram, bin_: int, remaining: int) -> Ranked:
    _, low = _locate(histogram.counts, remaining)
    keys = np.arange(_BINS, dtype=np.int64) + ((bin_ + _FIRST) << _LOW_BITS)
    bits = np.where(keys < 0, keys ^ 0x7FFFFFFF, keys).astype(np.int32)
    values = bits.view(np.float32).astype(np.float64)
    inside = histogram.counts > 0
    inside[:low] = False
    return Ranked(float(values[low]), histogram.sum + float(histogram.counts[inside] @ values[inside]))
