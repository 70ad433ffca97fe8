"""Exact order statistics over tensors or whole models, streamed at the memory of a histogram."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, sqrt
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
_TOP = int(np.float32(np.inf).view(np.int32))  # what is made of finite weights may be infinite, or no number
_MOST_BINS = 1 << 22  # of a window's histogram: a float each where the window is a percent of a large model
_FEWEST_BINS = 1 << 12
_ENTRIES_PER_BIN = 16  # at least, within these bounds: to go through the bins takes less than to read the entries
_SAMPLED_BLOCKS = 1024  # at most
_SAMPLED_SHARE = 128  # one entry in so many of a sampled block
_DEVIATIONS = 25  # half a first window, in standard deviations of as many independent draws; rows are not independent


@dataclass(frozen=True)
class Ranking:
    """What is ranked: the values of rows, (T, entries) float32, and whether they are found with torch."""

    values: Callable[[Rows], "Floats | torch.Tensor"]
    with_torch: bool = True


def thresholds(stream: Stream, rows: Sequence[Rows], densities: Sequence[float], progress: Progress) -> list[float]:
    """Find, per model, the ⌈density · d⌉-th largest |τ| over all `rows` (d entries)."""
    entries = count_entries(stream, rows)
    ranks = [[kept_entries(entries, density)] for density in densities]
    found = order_statistics(stream, rows, by_magnitude(stream, rows), ranks, "Magnitudes", progress)
    return [least for (least,) in found]


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
) -> list[list[float]]:
    """Find for each model the values of its `ranks`, the largest being rank 1, among all rows' values.

    A pass counts, for each rank, the values inside a window and those above it. A sample says where the windows begin,
    so one pass is mostly enough; where a rank lies outside, or bins are wider than one float, another follows. The
    values are exact whatever the sample says.
    """
    if not any(ranks):
        return [[] for _ in ranks]
    sample = _sample(rows, ranking)
    entries = count_entries(stream, rows)
    pending = {
        (model, rank): Window(*_bounds(own, rank / entries), _bins(entries))
        for model, (own, asked) in enumerate(zip(sample, ranks, strict=True))
        for rank in asked
    }
    found: dict[tuple[int, int], float] = {}
    turn = 1
    while pending:
        windows = [(model, window) for (model, _), window in pending.items()]
        look_through(rows, ranking, windows, f"{stage}, pass {turn}", progress)
        seen = {(model, rank): window.find(rank) for (model, rank), window in pending.items()}
        found |= {place: each for place, each in seen.items() if not isinstance(each, Window)}
        pending = {place: each for place, each in seen.items() if isinstance(each, Window)}
        turn += 1
    return [[found[model, rank] for rank in asked] for model, asked in enumerate(ranks)]


@dataclass(frozen=True)
class _Seen:
    """Of a block's values: how far the keys of those inside a window are from its first, and how many lie above it."""

    offsets: NDArray[np.int64]
    above: int


class Window:
    """Counts one model's values whose keys are first, …, last, in at most `bins` bins (a power of 2), and those above.

    The largest inside is known however wide bins are: that of a whole model takes no second pass.
    """

    def __init__(self, first: int, last: int, bins: int = _MOST_BINS) -> None:
        """Count none yet."""
        self.first, self.last, self.bins = first, last, bins
        self.shift = max(0, (last - first).bit_length() - bins.bit_length() + 1)
        self._low, self._high = value_of(first), value_of(last)
        self._counts = np.zeros(((last - first) >> self.shift) + 1, dtype=np.int64)
        self._above = 0
        self._largest = 0

    def look(self, values: "Floats | torch.Tensor") -> "_Seen":
        """Look at values (entries,) through the window."""
        if isinstance(values, np.ndarray):
            offsets = np.empty(len(values), dtype=np.int64)
            inside, above = look(values, np.float32(self._low), np.float32(self._high), self.first, offsets)
            return _Seen(offsets[:inside].copy(), above)
        keys = _keys(values[(values >= self._low) & (values <= self._high)].cpu().numpy())
        return _Seen(keys - self.first, int((values > self._high).sum()))

    def add(self, seen: "_Seen") -> None:
        """Count what `look` found in a block."""
        self._above += seen.above
        count(seen.offsets, self.shift, self._counts)
        self._largest = max(self._largest, int(seen.offsets.max(initial=0)))

    def key(self, rank: int) -> int:
        """Return the key of the `rank`-th largest of all values, which lies in the window, or where its bin begins."""
        if rank == self._above + 1:
            return self.first + self._largest
        below = self._above + np.cumsum(self._counts[::-1])  # entries down to the end of each bin
        return self.first + (len(self._counts) - 1 - int(np.searchsorted(below, rank)) << self.shift)

    def find(self, rank: int) -> "float | Window":
        """Return the `rank`-th largest of all values where it is known, else the window to look through next for it.

        What is no number counts as −∞.
        """
        if rank <= self._above:
            return Window(self.last + 1, _TOP, self.bins)
        if rank > self._above + self._counts.sum():
            return Window(-_TOP, self.first - 1, self.bins) if self.first > -_TOP else value_of(-_TOP)
        key = self.key(rank)
        if self.shift == 0 or rank == self._above + 1:
            return value_of(key)
        return Window(key, min(self.last, key + (1 << self.shift) - 1), self.bins)

    def counted(self, first: int) -> list[tuple[int, int]]:
        """Return the keys from `first` on, and how many values have each; bins are one key wide."""
        bins = np.flatnonzero(self._counts[first - self.first :]) + (first - self.first)
        return [(self.first + int(each), int(self._counts[each])) for each in bins]


def _bins(entries: int) -> int:
    """Return in how many bins the values of so many entries are counted."""
    return min(_MOST_BINS, max(_FEWEST_BINS, 1 << (entries // _ENTRIES_PER_BIN).bit_length()))


def look_through(
    rows: Sequence[Rows],
    ranking: Ranking,
    windows: Sequence[tuple[int, Window]],
    stage: str,
    progress: Progress,
) -> None:
    """Let each of `windows`, (model, window), see the model's values of all rows."""
    total = sum(each.stop - each.start for each in rows)
    done = 0
    progress(stage, done, total, "rows")

    def work(each: Rows) -> list[_Seen]:
        found = [_on_cpu_as_array(own) for own in ranking.values(each)]
        return [window.look(found[model]) for model, window in windows]

    for each, looked in zip(rows, in_order(work, rows, with_torch=ranking.with_torch), strict=True):
        for (_, window), seen in zip(windows, looked, strict=True):
            window.add(seen)
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
    drawn = np.concatenate(list(in_order(draw, enumerate(chosen), with_torch=ranking.with_torch)), axis=1)
    drawn[np.isnan(drawn)] = value_of(-_TOP)
    return list(-np.sort(-drawn, axis=1))  # (T, n)


def _bounds(sample: NDArray[np.float32], share: float) -> tuple[int, int]:
    """Return keys that most likely enclose the value with this share of all entries at or above it."""
    n = len(sample)
    margin = 2 / n + _DEVIATIONS * sqrt(share * (1 - share) / n)
    above, below = floor((share - margin) * n), ceil((share + margin) * n)
    last = int(_keys(sample[above : above + 1])[0]) if above >= 0 else _TOP
    first = int(_keys(sample[below : below + 1])[0]) if below < n else -_TOP
    return first, last


def _keys(values: NDArray[np.float32]) -> NDArray[np.int64]:
    bits = values.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def value_of(key: int) -> float:
    """Return the float whose key this is."""
    return float(np.uint32(key if key >= 0 else -key | 0x80000000).view(np.float32))
