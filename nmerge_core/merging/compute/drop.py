"""Which entries DARE drops, the same whatever the blocks, the order or the device, and the loop that drops them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nmerge_core.compiler import inlined

# SplitMix64: what its state grows by, and the (shift, factor) by which a number is made of the state.
GAMMA = 0x9E3779B97F4A7C15
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
LAST_SHIFT = 31
_GAMMA, _LAST_SHIFT, _HALF = np.uint64(GAMMA), np.uint64(LAST_SHIFT), np.uint64(32)
(_SHIFT_1, _FACTOR_1), (_SHIFT_2, _FACTOR_2) = ((np.uint64(shift), np.uint64(factor)) for shift, factor in MIX)


@dataclass(frozen=True)
class Drop:
    """DARE's drop: each model's entries are kept with its probability `densities`, over that density if `rescale`.

    Entry i of a tensor is kept where the upper 32 bits of the i-th number of a SplitMix64 generator (Steele et al.,
    OOPSLA 2014) are below density · 2³². It starts from a hash of (seed, model position, tensor name), and any number
    of it can be drawn by itself: what is kept does not depend on blocks, order or device.
    """

    densities: Sequence[float]
    rescale: bool
    seed: int

    @property
    def limits(self) -> NDArray[np.uint64]:
        """Of each model, the number below which 32 random bits keep their entry."""
        return np.array([round(density * 2**32) for density in self.densities], dtype=np.uint64)

    @property
    def scales(self) -> NDArray[np.float32]:
        """Of each model, what is kept is multiplied by this: exactly 1/(1 − p)."""
        return np.array([1 / density if self.rescale else 1 for density in self.densities], dtype=np.float32)

    def states(self, name: str) -> NDArray[np.uint64]:
        """Of each model, the state that the generator starts from for a tensor."""
        texts = [f"{self.seed} {model} {name}" for model in range(len(self.densities))]
        digests = [hashlib.sha256(text.encode()).digest() for text in texts]
        return np.array([int.from_bytes(digest[:8], "little") for digest in digests], dtype=np.uint64)


@inlined
def drop_entries(
    delta: NDArray[np.float32], state: np.uint64, position: np.uint64, limit: np.uint64, scale: np.float32
) -> None:
    """Drop entries of a chunk, the first at `position` of its tensor, and scale the rest, in place."""
    state += position * _GAMMA
    for i in range(len(delta)):
        state += _GAMMA
        z = _random(state)
        kept = np.uint32((z - limit) >> _HALF)  # all bits where z < limit, else none: both have at most 33
        scaled = np.float32(delta[i] * scale).view(np.uint32)
        delta[i] = np.uint32(scaled & kept).view(np.float32)


@inlined
def draw(drawn: NDArray[np.uint32], state: np.uint64, position: np.uint64) -> None:
    """Draw the 32 bits of entries, the first at `position` of its tensor."""
    state += position * _GAMMA
    for i in range(len(drawn)):
        state += _GAMMA
        drawn[i] = np.uint32(_random(state))


@inlined
def _random(state: np.uint64) -> np.uint64:
    """Return the upper 32 bits of the number that SplitMix64 makes of a state."""
    z = (state ^ (state >> _SHIFT_1)) * _FACTOR_1
    z = (z ^ (z >> _SHIFT_2)) * _FACTOR_2
    return (z ^ (z >> _LAST_SHIFT)) >> _HALF
