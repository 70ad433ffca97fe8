"""Exact order statistics of |τ| over tensors or whole models, at the memory of a histogram."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import fsum

import numpy as np
import torch
from numpy.typing import NDArray

from nmerge_core.merging.primitives import kept_entries
from nmerge_core.merging.stream import Rows, Stream, in_order
from nmerge_core.progress import Progress

# Nonnegative float32 are ordered like their 31 bits: pass 1 counts the high 15, pass 2 the low 16 of one bin.
_LOW_BITS = 16
_HIGH_BINS = 1 << (31 - _LOW_BITS)
_LOW_BINS = 1 << _LOW_BITS


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
    """Find, per model, the (⌈density · d⌉ + extra)-th largest |τ| over all `rows` (d entries), exactly, in two passes.

    The sums are float64 and do not depend on the order in which blocks are read.
    """
    totals = [_Total(_HIGH_BINS) for _ in stream.models]
    for counts, sums in _pass(stream, rows, _high_histogram, "Statistics, pass 1 of 2", progress):
        for total, count, sum_ in zip(totals, counts, sums, strict=True):
            total.add(count, sum_)
    bins, remaining = [], []
    for total, density in zip(totals, densities, strict=True):
        entries = int(total.counts.sum())
        rank = min(entries, kept_entries(entries, density) + extra)
        above, bin_ = _locate(total.counts, rank)
        bins.append(bin_)
        remaining.append(rank - above)

    kept = [_Total(_LOW_BINS) for _ in stream.models]

    def low_histogram(bits: torch.Tensor) -> list[tuple[torch.Tensor, float]]:
        return [_low_histogram(each, bin_) for each, bin_ in zip(bits, bins, strict=True)]

    for counts_and_sums in _pass(stream, rows, low_histogram, "Statistics, pass 2 of 2", progress):
        for total, (count, sum_) in zip(kept, counts_and_sums, strict=True):
            total.add(count, sum_)
    return [_finish(*each) for each in zip(totals, kept, bins, remaining, strict=True)]


class _Total:
    """A histogram and a sum, gathered block by block."""

    def __init__(self, bins: int) -> None:
        self.counts = np.zeros(bins, dtype=np.int64)
        self._sums: list[float] = []

    def add(self, counts: torch.Tensor, sum_: float) -> None:
        self.counts += counts.numpy()
        self._sums.append(sum_)

    @property
    def sum(self) -> float:
        return fsum(self._sums)


def _pass(stream: Stream, rows: Sequence[Rows], function, stage: str, progress: Progress) -> Iterator:  # type: ignore[no-untyped-def]
    total = sum(each.stop - each.start for each in rows)
    done = 0
    progress(stage, done, total, "rows")
    results = in_order(lambda each: function(stream.load(each).deltas.flatten(1).abs_().view(torch.int32)), rows)
    for each, result in zip(rows, results, strict=True):
        yield result
        done += each.stop - each.start
        progress(stage, done, total, "rows")


def _high_histogram(bits: torch.Tensor) -> tuple[list[torch.Tensor], list[float]]:
    counts = [torch.bincount(each >> _LOW_BITS, minlength=_HIGH_BINS).cpu() for each in bits]
    return counts, bits.view(torch.float32).sum(1, dtype=torch.float64).tolist()


def _low_histogram(bits: torch.Tensor, bin_: int) -> tuple[torch.Tensor, float]:
    """Count the low bits inside one high bin, and sum the magnitudes above that bin."""
    high = bits >> _LOW_BITS
    inside = bits[high == bin_] & (_LOW_BINS - 1)
    above = (bits.view(torch.float32) * (high > bin_)).sum(dtype=torch.float64).item()
    return torch.bincount(inside, minlength=_LOW_BINS).cpu(), above


def _locate(counts: NDArray[np.int64], rank: int) -> tuple[int, int]:
    """Return how many entries lie above the bin of the `rank`-th largest, and that bin."""
    cumulative = counts[::-1].cumsum()
    position = int(np.searchsorted(cumulative, rank))
    return int(cumulative[position] - counts[::-1][position]), len(counts) - 1 - position


def _finish(total: _Total, kept: _Total, bin_: int, remaining: int) -> Magnitudes:
    _, low = _locate(kept.counts, remaining)
    bits = np.arange(_LOW_BINS, dtype=np.int32) + np.int32(bin_ << _LOW_BITS)
    values = bits.view(np.float32).astype(np.float64)
    inside = kept.counts > 0
    inside[:low] = False
    return Magnitudes(float(values[low]), total.sum, kept.sum + float(kept.counts[inside] @ values[inside]))
