"""Rows merged by factors of their own: what is measured of a row is small, and every entry is merged by it alone.

With w a row of the base and m_t what is left of the row of τ_t above a threshold, `products` measures all scalar
products of w, m_1, … m_T, and `merge_by_factors` adds b·w + Σ_t a_t·m_t to the row. Both go through a block once.
"""

import numpy as np
from numpy.typing import NDArray

from nmerge_core.checkpoints.raw_bits import RawBits
from nmerge_core.compiler import compiled, inlined
from nmerge_core.merging.compute.kernels import CHUNK, add_weighted, finite, narrow, subtract, trim, widen

_LANES = 64  # sums that go on side by side, a power of 2


@compiled
def products(stored: RawBits, columns: int, thresholds: NDArray[np.float32], found: NDArray[np.float64]) -> bool:
    """Write the scalar products of each row's w, m_1, … m_T to `found` (rows, 1 + T, 1 + T).

    Products are exact, and summed in float64 in an order that depends on the row alone.

    Args:
        stored: the base first, then the models: (1 + T, rows · columns).
        columns: of a row.
        thresholds: the least |τ| that is kept, (T,).
        found: where the products go.

    Returns:
        Whether all of `stored` are finite.
    """
    vectors = len(stored)
    seen = np.zeros(CHUNK, np.uint32)
    bits = np.zeros((vectors, CHUNK), np.uint32)
    sums = np.zeros((vectors, vectors, _LANES))
    for row in range(len(found)):
        sums[:] = 0
        for start in range(row * columns, (row + 1) * columns, CHUNK):
            stop = min(start + CHUNK, (row + 1) * columns)
            _read(stored, start, stop, thresholds, bits, seen)
            _add_products(bits.view(np.float32), stop - start, sums)
        _take_totals(sums, found[row])
    return finite(seen)


@compiled
def products_of(vectors: NDArray[np.float32], found: NDArray[np.float64]) -> None:
    """Write what `products` does, to the last bit, of rows that are read: w, m_1, … m_T (1 + T, rows, columns)."""
    sums = np.zeros((len(vectors), len(vectors), _LANES))
    chunk = np.zeros((len(vectors), CHUNK), np.float32)
    for row in range(len(found)):
        sums[:] = 0
        for start in range(0, vectors.shape[2], CHUNK):
            count = min(CHUNK, vectors.shape[2] - start)
            chunk[:, :count] = vectors[:, row, start : start + count]
            _add_products(chunk, count, sums)
        _take_totals(sums, found[row])


@compiled
def merge_by_factors(
    stored: RawBits,
    columns: int,
    thresholds: NDArray[np.float32],
    factors: NDArray[np.float32],
    merged: RawBits,
) -> bool:
    """Write w + b·w + Σ_t a_t·m_t of each row to `merged` (rows · columns); `factors` (rows, 1 + T) are b, then a.

    Returns:
        Whether all of `stored` are finite.
    """
    vectors = len(stored)
    seen = np.zeros(CHUNK, np.uint32)
    bits = np.zeros((vectors, CHUNK), np.uint32)
    total_bits = np.zeros(CHUNK, np.uint32)
    for row in range(len(factors)):
        for start in range(row * columns, (row + 1) * columns, CHUNK):
            stop = min(start + CHUNK, (row + 1) * columns)
            _read(stored, start, stop, thresholds, bits, seen)
            base = bits[0].view(np.float32)[: stop - start]
            total = total_bits.view(np.float32)[: stop - start]
            total[:] = 0
            for vector in range(1, vectors):
                add_weighted(total, bits[vector].view(np.float32)[: stop - start], factors[row, vector])
            add_weighted(total, base, factors[row, 0])
            add_weighted(total, base, np.float32(1))
            narrow(total_bits, merged[start:stop])
    return finite(seen)


@inlined
def _read(
    stored: RawBits,
    start: int,
    stop: int,
    thresholds: NDArray[np.float32],
    bits: NDArray[np.uint32],
    seen: NDArray[np.uint32],
) -> None:
    """Read entries of a row: w, then m_1, … m_T, as float32 bits."""
    widen(stored[0, start:stop], bits[0], seen)
    base = bits[0].view(np.float32)
    for vector in range(1, len(stored)):
        widen(stored[vector, start:stop], bits[vector], seen)
        delta = bits[vector].view(np.float32)[: stop - start]
        subtract(delta, base)
        trim(delta, thresholds[vector - 1])


@inlined
def _add_products(vectors: NDArray[np.float32], count: int, sums: NDArray[np.float64]) -> None:
    """Add the products of the first `count` entries of every two of `vectors` (1 + T, CHUNK) to their sums."""
    whole = count // _LANES * _LANES
    for one in range(len(vectors)):
        for other in range(one, len(vectors)):
            left, right, lanes = vectors[one], vectors[other], sums[one, other]
            for start in range(0, whole, _LANES):
                for lane in range(_LANES):
                    lanes[lane] += np.float64(left[start + lane]) * np.float64(right[start + lane])
            for i in range(whole, count):
                lanes[i - whole] += np.float64(left[i]) * np.float64(right[i])


@inlined
def _take_totals(sums: NDArray[np.float64], found: NDArray[np.float64]) -> None:
    """Write the sum of each pair's lanes to `found` (1 + T, 1 + T)."""
    for one in range(len(sums)):
        for other in range(one, len(sums)):
            lanes, half = sums[one, other], _LANES // 2
            while half:
                for lane in range(half):
                    lanes[lane] += lanes[half + lane]
                half //= 2
            found[one, other] = found[other, one] = lanes[0]
