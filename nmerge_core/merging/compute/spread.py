"""Entries that models changed most differently: their variance over the models, and merges of them alone (SCE)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nmerge_core.checkpoints.raw_bits import RawBits
from nmerge_core.compiler import compiled, inlined
from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block, Entries
from nmerge_core.merging.compute.kernels import (
    CHUNK,
    LANES,
    add_products,
    add_weighted,
    divide,
    finite,
    narrow,
    scale_and_add,
    subtract,
    sum_elected,
    sum_lanes,
    widen,
)
from nmerge_core.merging.compute.order_statistics import Ranking
from nmerge_core.merging.compute.primitives import elected_sum, variance
from nmerge_core.merging.compute.stream import Rows, Stream

Squares = NDArray[np.float64]


@dataclass(frozen=True)
class Selected:
    """θ0 + Σ_t w_t s_t(τ_t), over the sum of the w_t that count.

    s_t keeps of the entries whose variance over the models is at least `least` those that have the sign of their sum.
    """

    weights: Sequence[float]
    least: float

    def merge(self, block: Block) -> torch.Tensor:
        """Return the merged delta of a block, (rows, columns) float32."""
        deltas = block.deltas * (variance(block.deltas) >= self.least)
        return elected_sum(deltas, self.weights, normalize=True, votes=(1.0,) * len(deltas))

    def merge_entries(self, entries: Entries, merged: RawBits) -> bool:
        """Write merged entries to `merged` (n,); return whether all that was read is finite."""
        return bool(_merge_selected(entries.stored, np.array(self.weights, np.float32), np.float32(self.least), merged))


def by_variance(stream: Stream, rows: Sequence[Rows]) -> Ranking:
    """Rank the entries of all `rows` by their variance over the models."""
    plain = all(stream.plain(name) for name in {each.name for each in rows})
    return Ranking(lambda each: variances(stream, each), with_torch=not plain)


def variances(stream: Stream, rows: Rows) -> NDArray[np.float32] | torch.Tensor:
    """Return the variance over the models of each entry of a block, (1, entries) float32."""
    if not stream.plain(rows.name):
        return variance(stream.load(rows).deltas).flatten()[None]
    entries = stream.entries(rows)
    found = np.empty((1, entries.stored.shape[1]), np.float32)
    if not _variances(entries.stored, found[0]):
        raise stream.not_finite(rows, entries)
    return found


def differing(stream: Stream, rows: Rows) -> NDArray[np.int64]:
    """Return how many entries of a block the models changed differently, ()."""
    found = variances(stream, rows)
    return np.array(np.count_nonzero(found) if isinstance(found, np.ndarray) else int(found.count_nonzero()))


def squares(stream: Stream, rows: Rows, least: float) -> Squares:
    """Return Σ τ_t² over the entries of a block whose variance is at least `least`: (T,) float64."""
    if not stream.plain(rows.name):
        deltas = stream.load(rows).deltas
        kept = (deltas * (variance(deltas) >= least)).flatten(1).double()
        on_device: Squares = kept.square().sum(1).cpu().numpy()
        return on_device
    entries = stream.entries(rows)
    found = np.zeros(len(stream.models))
    if not _squares(entries.stored, np.float32(least), found):
        raise stream.not_finite(rows, entries)
    return found


@compiled
def _variances(stored: RawBits, found: NDArray[np.float32]) -> bool:
    """Write the variance of each entry of `stored` (1 + T, n) to `found` (n,); return whether all are finite."""
    seen, bits, mean = (
        np.zeros(CHUNK, np.uint32),
        np.zeros((len(stored), CHUNK), np.uint32),
        np.zeros(CHUNK, np.float32),
    )
    for start in range(0, stored.shape[1], CHUNK):
        stop = min(start + CHUNK, stored.shape[1])
        _read(stored, start, stop, bits, seen)
        _spread(bits, mean[: stop - start], found[start:stop])
    return finite(seen)


@compiled
def _squares(stored: RawBits, least: np.float32, sums: Squares) -> bool:
    """Write Σ τ² of the selected entries of `stored` (1 + T, n) to `sums` (T,); return whether all are finite."""
    seen, bits = np.zeros(CHUNK, np.uint32), np.zeros((len(stored), CHUNK), np.uint32)
    mean, found = np.zeros(CHUNK, np.float32), np.zeros(CHUNK, np.float32)
    lanes = np.zeros((len(sums), LANES))
    for start in range(0, stored.shape[1], CHUNK):
        count = min(CHUNK, stored.shape[1] - start)
        _read(stored, start, start + count, bits, seen)
        _spread(bits, mean[:count], found[:count])
        for model in range(len(sums)):
            delta = bits[1 + model].view(np.float32)[:count]
            _select(delta, found, least)
            add_products(delta, delta, lanes[model])
    for model in range(len(sums)):
        sums[model] = sum_lanes(lanes[model])
    return finite(seen)


@compiled
def _merge_selected(stored: RawBits, weights: NDArray[np.float32], least: np.float32, merged: RawBits) -> bool:
    """Merge the entries of `stored` (1 + T, n) into `merged` (n,) as `Selected` says; return whether all are finite."""
    seen, bits = np.zeros(CHUNK, np.uint32), np.zeros((len(stored), CHUNK), np.uint32)
    total_bits, mean, found = np.zeros(CHUNK, np.uint32), np.zeros(CHUNK, np.float32), np.zeros(CHUNK, np.float32)
    for start in range(0, stored.shape[1], CHUNK):
        stop = min(start + CHUNK, stored.shape[1])
        count = stop - start
        total = total_bits.view(np.float32)[:count]
        _read(stored, start, stop, bits, seen)
        _spread(bits, mean[:count], found[:count])
        total[:] = 0
        for model in range(1, len(stored)):
            delta = bits[model].view(np.float32)[:count]
            _select(delta, found, least)
            add_weighted(total, delta, np.float32(1))
        sum_elected(total, bits[1:], weights, True, mean, found)
        scale_and_add(total, np.float32(1), bits[0].view(np.float32))
        narrow(total_bits, merged[start:stop])
    return finite(seen)


@inlined
def _read(stored: RawBits, start: int, stop: int, bits: NDArray[np.uint32], seen: NDArray[np.uint32]) -> None:
    """Read entries [start, stop) of the base, then of what each model changed, as float32 bits (1 + T, ≥ n)."""
    widen(stored[0, start:stop], bits[0], seen)
    for model in range(1, len(stored)):
        widen(stored[model, start:stop], bits[model], seen)
        subtract(bits[model].view(np.float32)[: stop - start], bits[0].view(np.float32))


@inlined
def _spread(bits: NDArray[np.uint32], mean: NDArray[np.float32], found: NDArray[np.float32]) -> None:
    """Write the mean and the variance over the models of n entries; `bits` are of the base, then of the changes."""
    mean[:] = 0
    for model in range(1, len(bits)):
        add_weighted(mean, bits[model].view(np.float32), np.float32(1))
    divide(mean, np.float32(len(bits) - 1))
    found[:] = 0
    for model in range(1, len(bits)):
        delta = bits[model].view(np.float32)
        for i in range(len(found)):
            away = np.float32(delta[i] - mean[i])
            found[i] += np.float32(away * away)
    divide(found, np.float32(len(bits) - 1))


@inlined
def _select(delta: NDArray[np.float32], found: NDArray[np.float32], least: np.float32) -> None:
    """Make 0 of the entries whose variance is below `least`, in place."""
    for i in range(len(delta)):
        delta[i] *= np.float32(found[i] >= least)
