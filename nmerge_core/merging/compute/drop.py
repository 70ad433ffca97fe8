"""Which entries DARE drops, the same whatever the blocks, the order or the device."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
