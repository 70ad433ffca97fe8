"""Exact order statistics over tensors or whole models, streamed at the memory of a histogram."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, fsum, sqrt

import numpy as np
import torch
from numpy.typing import NDArray

from nmerge_core.merging.block import Block
from nmerge_core.merging.primitives import kept_entries
from nmerge_core.merging.stream import Rows, Stream, in_order
from nmerge_core.progress import Progress

# A float's key is its bits as a whole number, negated where it is negative: keys are ordered as floats are.
_TOP = int(np.float32(np.finfo(np.float32).max).view(np.int32))
_BINS = 1 << 20  # of a window's histogram
_RUN = 64  # entries summed in float32 before their sum goes on in float64
_SAMPLED_BLOCKS = 4096  # at most
_SAMPLED_SHARE = 512  # one entry in so many of a sampled block
_DEVIATIONS = 25  # half a first window, in standard deviations of as many independent draws; rows are not independent


@dataclass(frozen=True)
class Ranked:
    """The value of one rank, the largest being rank 1, and the sum of the values at least as large."""

    value: float
    tail: float


@dataclass(frozen=True)
class Order:
    """Of one model's values: their sum, and what was found for each rank."""

    total: float
    ranked: list[Ranked]


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
    """Find, per model, the (⌈density · d⌉ + extra)-th largest |τ| over all `rows` (d entries)."""
    entries = count_entries(stream, rows)
    ranks = [[min(entries, kept_entries(entries, density) + extra)] for density in densities]
    found = order_statistics(stream, rows, lambda block: block.deltas.abs(), ranks, "Magnitudes", progress)
    return [Magnitudes(each.ranked[0].value, each.total, each.ranked[0].tail) for each in found]


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
) -> list[Order]:
    """Find for each model the values of its `ranks` among `values(block)`, (T, …) float32, of all rows.

    A pass counts, for each rank, the values inside a window and sums those above it. A sample says where the windows
    begin, so one pass is mostly enough; where a rank lies outside, or bins are wider than one float, another follows.
    The values are exact whatever the sample says. Sums are exact to 1e-7 (float32 over runs of 64 entries, then
    float64), and like the values independent of the order in which blocks are read.
    """
    sample = _sample(stream, rows, values)
    entries = count_entries(stream, rows)
    searches = [
        [_Search(rank, *_bounds(own, rank / entries)) for rank in asked]
        for own, asked in zip(sample, ranks, strict=True)
    ]
    totals: list[float] = []
    while pending := [search for own in searches for search in own if search.found is None]:
        turn = max(search.turn for search in pending)
        totals = _pass(stream, rows, values, searches, f"{stage}, pass {turn}", progress)
        for search in pending:
            search.narrow()
    return [
        Order(total, [search.found for search in own if search.found is not None])
        for total, own in zip(totals, searches, strict=True)
    ]


class _Search:
    """Looks for one rank of one model among the keys [first, last], counted in at most `_BINS` bins."""

    def __init__(self, rank: int, first: int, last: int) -> None:
        self.rank, self.turn = rank, 1
        self.found: Ranked | None = None
        self._open(first, last)

    def _open(self, first: int, last: int) -> None:
        self.first, self.last = first, last
        self.shift = max(0, (last - first).bit_length() - _BINS.bit_length() + 1)
        self.low, self.high = _value(first), _value(last)
        self._counts = np.zeros(((last - first) >> self.shift) + 1, dtype=np.int64)
        self._above = 0
        self._sums: list[float] = []

    def look(self, values: torch.Tensor) -> tuple[int, float, NDArray[np.int64]]:
        """Of values (entries,), return how many lie above the window, their sum, and the bins of those inside."""
        flat = values if values.is_cuda else values.numpy()  # numpy compares on a CPU ten times as fast
        inside = flat[(flat >= self.low) & (flat <= self.high)]
        keys = _keys(np.asarray(inside.cpu() if isinstance(inside, torch.Tensor) else inside))
        larger = flat > self.high
        count = larger.count_nonzero() if isinstance(larger, torch.Tensor) else np.count_nonzero(larger)
        above = torch.nn.functional.threshold(values, self.high, 0.0)
        return int(count), _sum(above), (keys - self.first) >> self.shift

    def add(self, above: int, sum_: float, bins: NDArray[np.int64]) -> None:
        """Count what `look` found in a block."""
        self._above += above
        self._sums.append(sum_)
        np.add.at(self._counts, bins, 1)

    def narrow(self) -> None:
        """After a pass: take the value, or open the window where it must be."""
        self.turn += 1
        below = self._above + np.cumsum(self._counts[::-1])  # entries down to the end of each bin
        if self.rank <= self._above:
            self._open(self.last + 1, _TOP)
        elif self.rank > below[-1]:
            self._open(-_TOP, self.first - 1)
        else:
            bin_ = len(self._counts) - 1 - int(np.searchsorted(below, self.rank))
            key = self.first + (bin_ << self.shift)
            if self.shift:
                self._open(key, min(self.last, key + (1 << self.shift) - 1))
            else:
                kept = np.flatnonzero(self._counts[bin_:]) + bin_
                inside = [_value(self.first + int(each)) * int(self._counts[each]) for each in kept]
                self.found = Ranked(_value(key), fsum([*self._sums, *inside]))


def _pass(
    stream: Stream,
    rows: Sequence[Rows],
    values: Callable[[Block], torch.Tensor],
    searches: Sequence[Sequence[_Search]],
    stage: str,
    progress: Progress,
) -> list[float]:
    """Let every search that goes on see all rows; return each model's sum."""
    pending = [[search for search in own if search.found is None] for own in searches]
    sums: list[list[float]] = [[] for _ in searches]
    total = sum(each.stop - each.start for each in rows)
    done = 0
    progress(stage, done, total, "rows")

    def work(each: Rows) -> list[tuple[float, list[tuple[int, float, NDArray[np.int64]]]]]:
        block = values(stream.load(each)).flatten(1)  # (T, entries)
        return [(_sum(own), [search.look(own) for search in open_]) for own, open_ in zip(block, pending, strict=True)]

    for each, looked in zip(rows, in_order(work, rows), strict=True):
        for (sum_, seen), open_, own in zip(looked, pending, sums, strict=True):
            own.append(sum_)
            for search, found in zip(open_, seen, strict=True):
                search.add(*found)
        done += each.stop - each.start
        progress(stage, done, total, "rows")
    return [fsum(own) for own in sums]


def _sample(stream: Stream, rows: Sequence[Rows], values: Callable[[Block], torch.Tensor]) -> list[NDArray[np.float32]]:
    """Draw some entries of every few blocks; return each model's, the largest first."""

    def draw(place: tuple[int, Rows]) -> torch.Tensor:
        index, each = place
        count = max(1, (each.stop - each.start) // _SAMPLED_SHARE)
        start = each.start + index * 40_503 % (each.stop - each.start - count + 1)
        drawn = values(stream.load(Rows(each.name, start, start + count))).flatten(1)
        entries = (each.stop - each.start) * drawn.shape[1] // count
        return drawn[:, :: max(1, drawn.shape[1] * _SAMPLED_SHARE // entries)].cpu()

    chosen = rows[:: -(-len(rows) // _SAMPLED_BLOCKS)]
    drawn = torch.cat(list(in_order(draw, enumerate(chosen))), dim=1)  # (T, n)
    return list(drawn.sort(dim=1, descending=True).values.numpy())


def _bounds(sample: NDArray[np.float32], share: float) -> tuple[int, int]:
    """Return keys that most likely enclose the value with this share of all entries at or above it."""
    n = len(sample)
    margin = 2 / n + _DEVIATIONS * sqrt(share * (1 - share) / n)
    above, below = floor((share - margin) * n), ceil((share + margin) * n)
    last = int(_keys(sample[above : above + 1])[0]) if above >= 0 else _TOP
    first = int(_keys(sample[below : below + 1])[0]) if below < n else -_TOP
    return first, last


def _sum(values: torch.Tensor) -> float:
    """Sum values (entries,) in float64 over float32 sums of `_RUN` entries: half the time of float64 throughout."""
    whole = len(values) // _RUN * _RUN
    runs = values[:whole].view(-1, _RUN).sum(1)
    return float(runs.sum(dtype=torch.float64) + values[whole:].sum(dtype=torch.float64))


def _keys(values: NDArray[np.float32]) -> NDArray[np.int64]:
    bits = values.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _value(key: int) -> float:
    return float(np.uint32(key if key >= 0 else -key | 0x80000000).view(np.float32))
