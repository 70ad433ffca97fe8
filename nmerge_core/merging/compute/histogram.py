"""Looking at values through a window, compiled for the CPU: what the search for an order statistic counts."""

import numpy as np
from numpy.typing import NDArray

from nmerge_core.compiler import compiled, inlined

CHUNK = 2048  # values; what is counted of them stays in a core's nearest cache


@compiled
def look(
    values: NDArray[np.float32], low: np.float32, high: np.float32, first: int, offsets: NDArray[np.int64]
) -> tuple[int, int]:
    """Look at values (n,) through the window [low, high], whose lowest key is `first`.

    Returns:
        How many of `offsets` (n,) were filled, with key − first of the values inside, and how many values lie above the
        window.
    """
    above = np.zeros(CHUNK, np.int32)
    inside = np.zeros(CHUNK, np.uint8)
    eights = inside.view(np.uint64)  # few values are inside, so eight are passed over at once
    keys = values.view(np.int32)
    found = 0
    for start in range(0, len(values), CHUNK):
        inside[:] = 0
        _look_at(values[start : start + CHUNK], low, high, above, inside)
        for eight in range(CHUNK // 8):
            if eights[eight]:
                for i in range(8 * eight, 8 * eight + 8):
                    if inside[i]:
                        offsets[found] = _key(keys[start + i]) - first
                        found += 1
    total = 0
    for each in above:  # not by numpy's sum, whose compiled form brings scipy.linalg along
        total += int(each)
    return found, total


@compiled
def count(offsets: NDArray[np.int64], shift: int, counts: NDArray[np.int64]) -> None:
    """Count offsets in their bins, offset >> shift."""
    for each in offsets:
        counts[each >> shift] += 1


@inlined
def _look_at(
    values: NDArray[np.float32],
    low: np.float32,
    high: np.float32,
    above: NDArray[np.int32],
    inside: NDArray[np.uint8],
) -> None:
    """Count values (at most `CHUNK`) above the window, and mark those inside."""
    for i in range(len(values)):
        above[i] += np.int32(values[i] > high)
    for i in range(len(values)):
        inside[i] = np.uint8(values[i] >= low) & np.uint8(values[i] <= high)


@inlined
def _key(bits: np.int32) -> np.int64:
    """Return a number that is ordered as the float of these bits is: negative where it is negative."""
    key = np.int64(bits)
    return key if key >= 0 else -(key & 0x7FFFFFFF)
