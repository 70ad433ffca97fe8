"""Compiled loops for the CPU: entries as they are stored go in, are merged in float32 a chunk at a time, and come out.

A chunk of every model stays in a core's nearest cache, so memory is read once and written once. Every operation is
rounded as IEEE 754 says, in a fixed order: the result does not depend on the machine, and equals torch's to the last
bit where that computes the same operations. All that is compiled is in this file: a change elsewhere would go unseen.
"""

import numpy as np
from numpy.typing import NDArray

from nmerge_core.checkpoints.raw_bits import RawBits
from nmerge_core.merging.compute.compiler import compiled, inlined

CHUNK = 2048  # entries: of four models 40 kB in float32
_MAGNITUDE = np.uint32(0x7FFFFFFF)  # a float's bits without its sign
# SplitMix64: what its state grows by, and the (shift, factor) by which a number is made of the state.
GAMMA = 0x9E3779B97F4A7C15
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
LAST_SHIFT = 31
_GAMMA, _LAST_SHIFT, _HALF = np.uint64(GAMMA), np.uint64(LAST_SHIFT), np.uint64(32)
(_SHIFT_1, _FACTOR_1), (_SHIFT_2, _FACTOR_2) = ((np.uint64(shift), np.uint64(factor)) for shift, factor in MIX)
_EXPONENT_STEP = np.uint32(0x00800000)  # added to these it overflows into the sign where all exponent bits are set


@compiled
def merge_entries(
    stored: RawBits,
    differences: bool,
    weights: NDArray[np.float32],
    thresholds: NDArray[np.float32],
    states: NDArray[np.uint64],
    position: np.uint64,
    limits: NDArray[np.uint64],
    kept_scale: NDArray[np.float32],
    elect: bool,
    normalize: bool,
    divisor: np.float32,
    scale: np.float32,
    merged: RawBits,
) -> bool:
    """Merge the entries of `stored` (sources, n) into `merged` (n,) as `Entrywise` says.

    Args:
        stored: the base first if `differences`, then the models (T).
        differences: whether differences from the base are merged and added to it.
        weights: w, (T,).
        thresholds: the least |τ| that is kept, (T,), or none.
        states: of each model's random numbers, or none; an entry is kept where 32 bits are below `limits`, times
            `kept_scale`.
        position: of the first entry in its tensor.
        elect: whether entries against the sign of the weighted sum are left out.
        normalize: where signs are elected, whether the sum is divided by Σ |w| of what agreed.
        divisor: what the sum is divided by.
        scale: what it is multiplied by.
        merged: where the entries go, rounded to the nearest, ties to even.

    Returns:
        Whether all of `stored` are finite.
    """
    models, first, length = len(weights), 1 if differences else 0, stored.shape[1]
    seen = np.zeros(CHUNK, np.uint32)
    base_bits = np.zeros(CHUNK, np.uint32)
    bits = np.zeros((models, CHUNK), np.uint32)
    total_bits = np.zeros(CHUNK, np.uint32)
    sign, agreed = np.zeros(CHUNK, np.float32), np.zeros(CHUNK, np.float32)
    for start in range(0, length, CHUNK):
        stop = min(start + CHUNK, length)
        count = stop - start
        base = base_bits.view(np.float32)[:count]
        total = total_bits.view(np.float32)[:count]
        if differences:
            _widen(stored[0, start:stop], base_bits, seen)
        total[:] = 0
        for model in range(models):
            _widen(stored[first + model, start:stop], bits[model], seen)
            delta = bits[model].view(np.float32)[:count]
            if differences:
                _subtract(delta, base)
            if thresholds.size:
                _trim(delta, thresholds[model])
            if states.size:
                _drop(delta, states[model], position + np.uint64(start), limits[model], kept_scale[model])
            _add_weighted(total, delta, weights[model])
        if elect:
            _signs(total, sign)
            total[:] = 0
            agreed[:] = 0
            for model in range(models):
                _add_agreeing(total, agreed, bits[model].view(np.float32)[:count], sign, weights[model])
            _settle(total, agreed, sign, normalize)
        if divisor != 1:
            _divide(total, divisor)
        _scale_and_add(total, scale, base)
        _narrow(total_bits, merged[start:stop])
    return _finite(seen)


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
        _widen(stored[0, start:stop], base_bits, seen)
        for model in range(len(out)):
            _widen(stored[1 + model, start:stop], bits[model, start:stop], seen)
            _distance(out[model, start:stop], base)
    return _finite(seen)


@inlined
def _widen(stored: RawBits, bits: NDArray[np.uint32], seen: NDArray[np.uint32]) -> None:
    """Write the float32 bits of stored entries; `seen` gets its highest bit where one is infinite or a NaN."""
    shift = np.uint32(32 - 8 * stored.itemsize)
    for i in range(len(stored)):
        bits[i] = np.uint32(stored[i]) << shift
        seen[i] |= (bits[i] & _MAGNITUDE) + _EXPONENT_STEP


@inlined
def _finite(seen: NDArray[np.uint32]) -> bool:
    return not (seen & ~_MAGNITUDE).any()


@inlined
def _narrow(bits: NDArray[np.uint32], stored: RawBits) -> None:
    """Write float32 bits as stored entries, rounded to the nearest, ties to even."""
    shift = np.uint32(32 - 8 * stored.itemsize)
    half = np.uint32((1 << shift) // 2)
    odd = np.uint32(1 if half else 0)
    below_half = np.uint32(half - odd)
    for i in range(len(stored)):
        stored[i] = np.uint32(bits[i] + below_half + (np.uint32(bits[i] >> shift) & odd)) >> shift


@inlined
def _subtract(delta: NDArray[np.float32], base: NDArray[np.float32]) -> None:
    for i in range(len(delta)):
        delta[i] -= base[i]


@inlined
def _distance(values: NDArray[np.float32], base: NDArray[np.float32]) -> None:
    for i in range(len(values)):
        values[i] = abs(values[i] - base[i])


@inlined
def _trim(delta: NDArray[np.float32], least: np.float32) -> None:
    for i in range(len(delta)):
        delta[i] = delta[i] if abs(delta[i]) >= least else np.float32(0)


@inlined
def _drop(
    delta: NDArray[np.float32], state: np.uint64, position: np.uint64, limit: np.uint64, scale: np.float32
) -> None:
    for i in range(len(delta)):
        z = state + (position + np.uint64(i) + np.uint64(1)) * _GAMMA
        z = (z ^ (z >> _SHIFT_1)) * _FACTOR_1
        z = (z ^ (z >> _SHIFT_2)) * _FACTOR_2
        z = (z ^ (z >> _LAST_SHIFT)) >> _HALF
        delta[i] = delta[i] * scale if z < limit else np.float32(0)


@inlined
def _add_weighted(total: NDArray[np.float32], delta: NDArray[np.float32], weight: np.float32) -> None:
    for i in range(len(total)):
        total[i] += delta[i] * weight


@inlined
def _signs(values: NDArray[np.float32], sign: NDArray[np.float32]) -> None:
    for i in range(len(values)):
        sign[i] = np.float32(values[i] > 0) - np.float32(values[i] < 0)


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
def _settle(
    total: NDArray[np.float32], agreed: NDArray[np.float32], sign: NDArray[np.float32], normalize: bool
) -> None:
    """Give the sum of what agreed its sign, and make it a mean."""
    for i in range(len(total)):
        total[i] *= sign[i]
    if normalize:
        for i in range(len(total)):
            total[i] /= agreed[i] if agreed[i] > 0 else np.float32(1)


@inlined
def _divide(total: NDArray[np.float32], divisor: np.float32) -> None:
    for i in range(len(total)):
        total[i] /= divisor


@inlined
def _scale_and_add(total: NDArray[np.float32], scale: np.float32, base: NDArray[np.float32]) -> None:
    for i in range(len(total)):
        total[i] = total[i] * scale + base[i]
