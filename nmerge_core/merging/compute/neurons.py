"""Rows merged by factors of their own: what is measured of a row is small, and every entry is merged by it alone.

With w a row of the base and m_t what is left of the row of τ_t above a threshold, `products` measures all scalar
products of w, m_1, … m_T, and `merge_by_factors` adds b·w + Σ_t a_t·m_t to the row. Both go through a block once.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nmerge_core.checkpoints.raw_bits import RawBits
from nmerge_core.compiler import compiled, inlined
from nmerge_core.merging.compute.kernels import (
    CHUNK,
    LANES,
    add_products,
    add_weighted,
    finite,
    narrow,
    subtract,
    sum_lanes,
    trim,
    widen,
)

if TYPE_CHECKING:
    import torch

EVERY = np.empty(0, np.float32)  # thresholds that keep every entry


@compiled
def products(
    stored: RawBits, differences: bool, columns: int, thresholds: NDArray[np.float32], found: NDArray[np.float64]
) -> bool:
    """Write the scalar products of each row's w, m_1, … m_T to `found` (rows, 1 + T, 1 + T).

    Without `differences` they are those of the sources themselves, (rows, T, T). Products are exact, and summed in
    float64 in an order that depends on the row alone.

    Args:
        stored: the base first if `differences`, then the models: (1 + T, rows · columns).
        differences: whether differences from the base are taken.
        columns: of a row.
        thresholds: the least |τ| that is kept, (T,), or `EVERY`.
        found: where the products go.

    Returns:
        Whether all of `stored` are finite.
    """
    vectors = len(stored)
    seen = np.zeros(CHUNK, np.uint32)
    bits = np.zeros((vectors, CHUNK), np.uint32)
    sums = np.zeros((vectors, vectors, LANES))
    for row in range(len(found)):
        sums[:] = 0
        for start in range(row * columns, (row + 1) * columns, CHUNK):
            stop = min(start + CHUNK, (row + 1) * columns)
            _read(stored, differences, start, stop, thresholds, bits, seen)
            _add_products(bits.view(np.float32), stop - start, sums)
        _take_totals(sums, found[row])
    return finite(seen)


@compiled
def products_of(vectors: NDArray[np.float32], found: NDArray[np.float64]) -> None:
    """Write what `products` does, to the last bit, of rows that are read: w, m_1, … m_T (1 + T, rows, columns)."""
    sums = np.zeros((len(vectors), len(vectors), LANES))
    chunk = np.zeros((len(vectors), CHUNK), np.float32)
    for row in range(len(found)):
        sums[:] = 0
        for start in range(0, vectors.shape[2], CHUNK):
            count = min(CHUNK, vectors.shape[2] - start)
            chunk[:, :count] = vectors[:, row, start : start + count]
            _add_products(chunk, count, sums)
        _take_totals(sums, found[row])


def products_of_rows(vectors: "torch.Tensor") -> "torch.Tensor":
    """Return the scalar products of the rows of vectors (1 + T, rows, columns): (rows, 1 + T, 1 + T) float64.

    On a CPU as `products_of` finds them; a GPU sums them in another order.
    """
    import torch

    if vectors.is_cuda:
        rows_first = vectors.transpose(0, 1).double()
        return rows_first @ rows_first.transpose(1, 2)
    found = np.empty((vectors.shape[1], len(vectors), len(vectors)))
    products_of(vectors.numpy(), found)
    return torch.from_numpy(found)


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
            _read(stored, True, start, stop, thresholds, bits, seen)
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
    differences: bool,
    start: int,
    stop: int,
    thresholds: NDArray[np.float32],
    bits: NDArray[np.uint32],
    seen: NDArray[np.uint32],
) -> None:
    """Read entries of a row: w, then m_1, … m_T, as float32 bits; without `differences` θ_1, … θ_T."""
    widen(stored[0, start:stop], bits[0], seen)
    base = bits[0].view(np.float32)
    for vector in range(1, len(stored)):
        widen(stored[vector, start:stop], bits[vector], seen)
        if differences:
            delta = bits[vector].view(np.float32)[: stop - start]
            subtract(delta, base)
            if thresholds.size:
                trim(delta, thresholds[vector - 1])


@inlined
def _add_products(vectors: NDArray[np.float32], count: int, sums: NDArray[np.float64]) -> None:
    """Add the products of the first `count` entries of every two of `vectors` (1 + T, CHUNK) to their sums."""
    for one in range(len(vectors)):
        for other in range(one, len(vectors)):
            add_products(vectors[one, :count], vectors[other, :count], sums[one, other])


@inlined
def _take_totals(sums: NDArray[np.float64], found: NDArray[np.float64]) -> None:
    """Write the sum of each pair's lanes to `found` (1 + T, 1 + T)."""
    for one in range(len(sums)):
        for other in range(one, len(sums)):
            found[one, other] = found[other, one] = sum_lanes(sums[one, other])
