"""Looking at values through a window, compiled for the CPU: what the search for an order statistic counts."""

import numpy as np
from numpy.typing import NDArray

from nmerge_core.merging.compute.compiler import compiled, inlined

CHUNK = 2048  # values; what is counted of them stays in a core's nearest cache
_RUN = 64  # values summed in float32


@compiled
def look(
    values: NDArray[np.float32], low: np.float32, high: np.float32, first: int, shift: int, bins: NDArray[np.int64]
) -> tuple[int, int, float, float]:
    """Look at values (n,) through the window [low, high], whose lowest key is `first`.

    Sums are float32 over at most `_RUN` values, then float64.

    Returns:
        How many of `bins` (n,) were filled, with (key − first) >> shift of the values inside; how many values lie
        above the window; the sum of these; and the sum of all.
    """
    sums, sums_above = np.zeros(CHUNK, np.float32), np.zeros(CHUNK, np.float32)
    above = np.zeros(CHUNK, np.int32)
    inside = np.zeros(CHUNK, np.uint8)
    eights = inside.view(np.uint64)  # few values are inside, so eight are passed over at once
    keys = values.view(np.int32)
    found, total, total_above = 0, 0.0, 0.0
    for start in range(0, len(values), CHUNK):
        if start % (_RUN * CHUNK) == 0:
            total += _taken(sums)
            total_above += _taken(sums_above)
        chunk = values[start : start + CHUNK]
        inside[:] = 0
        _look_at(chunk, low, high, sums, sums_above, above, inside)
        for eight in range(CHUNK // 8):
            if eights[eight]:
                for i in range(8 * eight, 8 * eight + 8):
                    if inside[i]:
                        bins[found] = (_key(keys[start + i]) - first) >> shift
                        found += 1
    return found, above.sum(), total_above + _taken(sums_above), total + _taken(sums)


@compiled
def count(bins: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
    """Count every one of `bins` in `counts`."""
    for each in bins:
        counts[each] += 1


@inlined
def _look_at(
    values: NDArray[np.float32],
    low: np.float32,
    high: np.float32,
    sums: NDArray[np.float32],
    sums_above: NDArray[np.float32],
    above: NDArray[np.int32],
    inside: NDArray[np.uint8],
) -> None:
    """Add values (at most `CHUNK`) to their sums, count those above the window, and mark those inside."""
    for i in range(len(values)):
        sums[i] += values[i]
    for i in range(len(values)):
        sums_above[i] += values[i] if values[i] > high else np.float32(0)
    for i in range(len(values)):
        above[i] += np.int32(values[i] > high)
    for i in range(len(values)):
        inside[i] = np.uint8(values[i] >= low) & np.uint8(values[i] <= high)


@inlined
def _taken(sums: NDArray[np.float32]) -> float:
    """Return the total of sums, which begin again."""
    total = 0.0
    for i in range(len(sums)):
        total += sums[i]
        sums[i] = 0
    return total


@inlined
def _key(bits: np.int32) -> np.int64:
    """Return a number that is ordered as the float of these bits is: negative where it is negative."""
    key = np.int64(bits)
    return key if key >= 0 else -(key & 0x7FFFFFFF)
