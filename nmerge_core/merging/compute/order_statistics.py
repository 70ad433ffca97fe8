"""Exact order statistics over tensors or whole models, streamed at the memory of a histogram."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, fsum, sqrt
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nmerge_core.merging.compute.histogram import count, look
from nmerge_core.merging.compute.kernels import magnitudes as magnitudes_of
from nmerge_core.merging.compute.stream import Rows, Stream
from nmerge_core.parallel import in_order
from nmerge_core.progress import Progress

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]

# A float's key is its bits as a whole number, negated where it is negative: keys are ordered as floats are.
_TOP = int(np.float32(np.finfo(np.float32).max).view(np.int32))
_BINS = 1 << 20  # of a window's histogram
_SAMPLED_BLOCKS = 1024  # at most
_SAMPLED_SHARE = 128  # one entry in so many of a sampled block
_DEVIATIONS = 25  # half a first window, in standard deviations of as many independent draws; rows are not independent


@dataclass(frozen=True)
class Ranking:
    """What is ranked: the values of rows, (T, entries) float32, and whether they are found with torch."""

    values: Callable[[Rows], "Floats | torch.Tensor"]
    with_torch: bool = True


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
    found = order_statistics(stream, rows, by_magnitude(stream, rows), ranks, "Magnitudes", progress)
    return [Magnitudes(each.ranked[0].value, each.total, each.ranked[0].tail) for each in found]


def by_magnitude(stream: Stream, rows: Sequence[Rows]) -> Ranking:
    """Rank the entries of all `rows` by |τ|."""

    def values(each: Rows) -> "Floats | torch.Tensor":
        if not stream.plain(each.name):
            return stream.load(each).deltas.abs().flatten(1)
        entries = stream.entries(each)
        found = np.empty((len(stream.models), entries.stored.shape[1]), dtype=np.float32)
        if not magnitudes_of(entries.stored, found):
            raise stream.not_finite(each, entries)
        return found

    return Ranking(values, with_torch=not all(stream.plain(name) for name in {each.name for each in rows}))


def kept_entries(entries: int, density: float) -> int:
    """Return ⌈density · entries⌉, at least 1; a density such as 0.1 means its decimal value, not its binary one."""
    return max(1, -int(-round(density * entries, 6) // 1))


def count_entries(stream: Stream, rows: Sequence[Rows]) -> int:
    """Return d, the number of entries of all `rows` in one model."""
    matrix = stream.donor.architecture.matrix
    return sum((each.stop - each.start) * matrix(each.name).columns for each in rows)


def order_statistics(
    stream: Stream,
    rows: Sequence[Rows],
    ranking: Ranking,
    ranks: Sequence[Sequence[int]],
    stage: str,
    progress: Progress,
) -> list[Order]:
    """Find for each model the values of its `ranks` among all rows' values.

    A pass counts, for each rank, the values inside a window and sums those above it. A sample says where the windows
    begin, so one pass is mostly enough; where a rank lies outside, or bins are wider than one float, another follows.
    The values are exact whatever the sample says. Sums are exact to 1e-7 (float32 over at most 64 entries, then
    float64), and like the values independent of the order in which blocks are read.
    """
    sample = _sample(rows, ranking)
    entries = count_entries(stream, rows)
    searches = [
        [_Search(rank, *_bounds(own, rank / entries)) for rank in asked]
        for own, asked in zip(sample, ranks, strict=True)
    ]
    while pending := [search for own in searches for search in own if search.found is None]:
        turn = max(search.turn for search in pending)
        _pass(rows, ranking, searches, f"{stage}, pass {turn}", progress)
        for search in pending:
            search.narrow()
    return [Order(own[0].total, [search.found for search in own if search.found is not None]) for own in searches]


@dataclass(frozen=True)
class _Seen:
    """Of a block's values: the bins of those inside a window, how many lie above it, the sum of these, and of all."""

    bins: NDArray[np.int64]
    above: int
    sum_above: float
    sum: float


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
        self._sums_above: list[float] = []

    @property
    def total(self) -> float:
        """The sum of all values of the last pass."""
        return fsum(self._sums)

    def look(self, values: "Floats | torch.Tensor") -> "_Seen":
        """Look at values (entries,) through the window."""
        if isinstance(values, np.ndarray):
            bins = np.empty(len(values), dtype=np.int64)
            low, high = np.float32(self.low), np.float32(self.high)
            inside, above, sum_above, sum_ = look(values, low, high, self.first, self.shift, bins)
            return _Seen(bins[:inside].copy(), above, sum_above, sum_)
        keys = _keys(values[(values >= self.low) & (values <= self.high)].cpu().numpy())
        beyond = values[values > self.high]
        return _Seen((keys - self.first) >> self.shift, len(beyond), _sum(beyond), _sum(values))

    def add(self, seen: "_Seen") -> None:
        """Count what `look` found in a block."""
        self._above += seen.above
        self._sums.append(seen.sum)
        self._sums_above.append(seen.sum_above)
        count(seen.bins, self._counts)

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
                self.found = Ranked(_value(key), fsum([*self._sums_above, *inside]))


def _pass(
    rows: Sequence[Rows],
    ranking: Ranking,
    searches: Sequence[Sequence[_Search]],
    stage: str,
    progress: Progress,
) -> None:
    """Let every search that goes on see all rows."""
    pending = [[search for search in own if search.found is None] for own in searches]
    total = sum(each.stop - each.start for each in rows)
    done = 0
    progress(stage, done, total, "rows")

    def work(each: Rows) -> list[list[_Seen]]:
        found = _on_cpu_as_array(ranking.values(each))
        return [[search.look(own) for search in open_] for own, open_ in zip(found, pending, strict=True)]

    for each, looked in zip(rows, in_order(work, rows, with_torch=ranking.with_torch), strict=True):
        for open_, found in zip(pending, looked, strict=True):
            for search, seen in zip(open_, found, strict=True):
                search.add(seen)
        done += each.stop - each.start
        progress(stage, done, total, "rows")


def _on_cpu_as_array(values: "Floats | torch.Tensor") -> "Floats | torch.Tensor":
    return values if isinstance(values, np.ndarray) or values.is_cuda else values.numpy()


def _sample(rows: Sequence[Rows], ranking: Ranking) -> list[Floats]:
    """Draw some entries of every few blocks; return each model's, the largest first."""

    def draw(place: tuple[int, Rows]) -> Floats:
        index, each = place
        count = max(1, (each.stop - each.start) // _SAMPLED_SHARE)
        start = each.start + index * 40_503 % (each.stop - each.start - count + 1)
        found = ranking.values(Rows(each.name, start, start + count))
        drawn: Floats = found if isinstance(found, np.ndarray) else found.cpu().numpy()
        entries = (each.stop - each.start) * drawn.shape[1] // count
        return drawn[:, :: max(1, drawn.shape[1] * _SAMPLED_SHARE // entries)].copy()

    chosen = rows[:: -(-len(rows) // _SAMPLED_BLOCKS)]
    drawn = list(in_order(draw, enumerate(chosen), with_torch=ranking.with_torch))
    return list(-np.sort(-np.concatenate(drawn, axis=1), axis=1))  # (T, n)


def _bounds(sample: NDArray[np.float32], share: float) -> tuple[int, int]:
    """Return keys that most likely enclose the value with this share of all entries at or above it."""
    n = len(sample)
    margin = 2 / n + _DEVIATIONS * sqrt(share * (1 - share) / n)
    above, below = floor((share - margin) * n), ceil((share + margin) * n)
    last = int(_keys(sample[above : above + 1])[0]) if above >= 0 else _TOP
    first = int(_keys(sample[below : below + 1])[0]) if below < n else -_TOP
    return first, last


def _sum(values: "torch.Tensor") -> float:
    return float(values.double().sum())


def _keys(values: NDArray[np.float32]) -> NDArray[np.int64]:
    bits = values.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _value(key: int) -> float:
    return float(np.uint32(key if key >= 0 else -key | 0x80000000).view(np.float32))
