"""What compiled loops are made of: stored entries become float32 a chunk at a time, and are rounded on their way out.

A chunk of every model stays in a core's nearest cache, so memory is read once and written once. Every operation is
rounded as IEEE 754 says, in a fixed order: the result does not depend on the machine, and equals torch's to the last
bit where that computes the same operations. Keep it so: no sum may be reordered, no operation fused with another.

Whole numbers of 32 bits become 64 bits wide in every operation of numba's, so each is cast back: a loop then takes
eight entries at a time.
"""

import numpy as np
from numpy.typing import NDArray

from nmerge_core.checkpoints.raw_bits import RawBits
from nmerge_core.compiler import compiled, inlined

CHUNK = 2048  # entries: of four models 40 kB in float32
LANES = 64  # sums that go on side by side, a power of 2
_MAGNITUDE = np.uint32(0x7FFFFFFF)  # a float's bits without its sign
_HALF, _BELOW_HALF = np.uint32(16), np.uint32(0x7FFF)  # of a float32's bits, which bfloat16 stores the upper half of
_EXPONENT_STEP = np.uint32(0x00800000)  # added to these it overflows into the sign where all exponent bits are set


@compiled
def magnitudes(stored: RawBits, out: NDArray[np.float32]) -> bool:
    """Write |τ| of `stored` (1 + T, n), the base first, to `out` (T, n); return whether all of `stored` are finite."""
    seen = np.zeros(CHUNK, np.uint32)
    base_bits = np.zeros(CHUNK, np.uint32)
    base = base_bits.view(np.float32)
    bits = out.view(np.uint32)
    length = stored.shape[1]
    for start in range(0, length, CHUNK):
        stop = min(start + CHUNK, length)
        widen(stored[0, start:stop], base_bits, seen)
        for model in range(len(out)):
            widen(stored[1 + model, start:stop], bits[model, start:stop], seen)
            distance(out[model, start:stop], base)
    return finite(seen)


@inlined
def widen(stored: RawBits, bits: NDArray[np.uint32], seen: NDArray[np.uint32]) -> None:
    """Write the float32 bits of stored entries; `seen` gets its highest bit where one is infinite or a NaN."""
    place = np.uint32(1) if stored.itemsize == 4 else np.uint32(1 << 16)
    for i in range(len(stored)):
        bits[i] = np.uint32(stored[i]) * place
        seen[i] |= np.uint32(np.uint32(bits[i] & _MAGNITUDE) + _EXPONENT_STEP)


@inlined
def finite(seen: NDArray[np.uint32]) -> bool:
    """Return whether no entry that `widen` has seen was infinite or a NaN."""
    for each in seen:  # not by numpy's any, whose compiled form brings scipy.linalg along
        if each > _MAGNITUDE:
            return False
    return True


@inlined
def narrow(bits: NDArray[np.uint32], stored: RawBits) -> None:
    """Write float32 bits as stored entries, rounded to the nearest, ties to even."""
    if stored.itemsize == 4:
        for i in range(len(stored)):
            stored[i] = bits[i]
        return
    for i in range(len(stored)):
        odd = np.uint32(np.uint32(bits[i] >> _HALF) & np.uint32(1))
        stored[i] = np.uint32(np.uint32(bits[i] + _BELOW_HALF) + odd) >> _HALF


@inlined
def subtract(delta: NDArray[np.float32], base: NDArray[np.float32]) -> None:
    """Take the base from the entries, in place."""
    for i in range(len(delta)):
        delta[i] -= base[i]


@inlined
def trim(delta: NDArray[np.float32], least: np.float32) -> None:
    """Make 0 of the entries whose magnitude is below `least`, in place."""
    # A product of every entry: a store of those alone that a condition chooses takes ten times as long.
    for i in range(len(delta)):
        delta[i] *= np.float32(abs(delta[i]) >= least)


@inlined
def cut(delta: NDArray[np.float32], ceiling: np.float32) -> None:
    """Make 0 of the entries whose magnitude is not below `ceiling`, in place."""
    for i in range(len(delta)):
        delta[i] *= np.float32(abs(delta[i]) < ceiling)


@inlined
def add_weighted(total: NDArray[np.float32], values: NDArray[np.float32], weight: np.float32) -> None:
    """Add weighted values to a total, in place."""
    for i in range(len(total)):
        total[i] += values[i] * weight


@inlined
def sum_elected(
    total: NDArray[np.float32],
    bits: NDArray[np.uint32],
    weights: NDArray[np.float32],
    normalize: bool,
    sign: NDArray[np.float32],
    agreed: NDArray[np.float32],
) -> None:
    """Make of a total the sum of the weighted entries that have its sign, in place.

    Args:
        total: whose signs are those elected, (n,).
        bits: of the models' entries in float32, (models, ≥ n).
        weights: of the models, (models,).
        normalize: whether the sum is divided by Σ |w| of what agreed.
        sign: room for as many entries.
        agreed: room for as many entries.
    """
    for i in range(len(total)):
        sign[i] = np.float32(total[i] > 0) - np.float32(total[i] < 0)
    total[:] = 0
    agreed[:] = 0
    for model in range(len(weights)):
        _add_agreeing(total, agreed, bits[model].view(np.float32), sign, weights[model])
    for i in range(len(total)):
        total[i] *= sign[i]
    if normalize:
        for i in range(len(total)):
            total[i] /= agreed[i] if agreed[i] > 0 else np.float32(1)


@inlined
def _add_agreeing(
    total: NDArray[np.float32],
    agreed: NDArray[np.float32],
    delta: NDArray[np.float32],
    sign: NDArray[np.float32],
    weight: np.float32,
) -> None:
    """Add |w τ| where its sign is the elected one, and |w| to what agreed."""
    size = abs(weight)
    for i in range(len(total)):
        weighted = delta[i] * weight * sign[i]
        total[i] += weighted if weighted > 0 else np.float32(0)
        agreed[i] += size if weighted > 0 else np.float32(0)


@inlined
def divide(total: NDArray[np.float32], divisor: np.float32) -> None:
    """Divide a total, in place."""
    for i in range(len(total)):
        total[i] /= divisor


@inlined
def scale_and_add(total: NDArray[np.float32], scale: np.float32, base: NDArray[np.float32]) -> None:
    """Multiply a total and add the base, in place."""
    for i in range(len(total)):
        total[i] = total[i] * scale + base[i]


@inlined
def add_products(left: NDArray[np.float32], right: NDArray[np.float32], lanes: NDArray[np.float64]) -> None:
    """Add the products of two vectors' entries, which are exact, to sums (LANES,)."""
    whole = len(left) // LANES * LANES
    for start in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] += np.float64(left[start + lane]) * np.float64(right[start + lane])
    for i in range(whole, len(left)):
        lanes[i - whole] += np.float64(left[i]) * np.float64(right[i])


@inlined
def sum_lanes(lanes: NDArray[np.float64]) -> float:
    """Return the sum of sums (LANES,), which are lost."""
    half = LANES // 2
    while half:
        for lane in range(half):
            lanes[lane] += lanes[half + lane]
        half //= 2
    return lanes[0]


@inlined
def distance(values: NDArray[np.float32], base: NDArray[np.float32]) -> None:
    """Make of values |value − base|, in place."""
    for i in range(len(values)):
        values[i] = abs(values[i] - base[i])
