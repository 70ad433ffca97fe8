"""Lengths and angles of whole tensors, and what interpolation along arcs takes of each of two."""

from __future__ import annotations

from collections.abc import Sequence
from math import acos, sin, sqrt

import numpy as np
from numpy.typing import NDArray

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.neurons import EVERY, products, products_of_rows
from nmerge_core.merging.compute.stream import Rows, Stream
from nmerge_core.merging.compute.sums import sum_blocks
from nmerge_core.progress import Progress

Products = NDArray[np.float64]


def inner_products(stream: Stream, names: Sequence[str], progress: Progress) -> dict[str, Products]:
    """Return per tensor ⟨x_i, x_j⟩ of x = (θ0, τ_1, …, τ_T), its entries as one vector: (1 + T, 1 + T) float64.

    Without a base θ0 is 0 and τ_t are the weights. Blocks are summed in the order of their rows. A GPU sums the entries
    of a block in another order than a CPU.
    """
    count = 1 + len(stream.models)

    def find(rows: Rows) -> Products:
        if not stream.plain(rows.name):
            block = stream.load(rows)
            vectors = torch.cat([block.base[None], block.deltas]).flatten(1)  # (1 + T, entries)
            of_block: Products = products_of_rows(vectors.unsqueeze(1))[0].cpu().numpy()
            return of_block
        entries = stream.entries(rows)
        sources, length = entries.stored.shape  # 1 + T, without a base T
        own = np.empty((1, sources, sources))
        if not products(entries.stored, entries.differences, length, EVERY, own):
            raise stream.not_finite(rows, entries)
        return np.pad(own[0], (count - sources, 0))

    return sum_blocks(stream, names, find, np.zeros((count, count)), "Lengths and angles", progress)


def cosines(found: Products) -> Products:
    """Return the cosines of the angles between vectors from their inner products, (…, T, T); 0 where one is 0."""
    lengths = np.sqrt(found.diagonal(axis1=-2, axis2=-1))
    scale = lengths[..., :, None] * lengths[..., None, :]
    between: Products = np.divide(found, scale, out=np.zeros_like(found), where=scale > 0).clip(-1, 1)
    return between


def slerp(t: float, first: float, second: float, product: float, straight: float = 1.0) -> tuple[float, float]:
    """Return how much of x and of y lies at t on the arc from x to y, by ⟨x, x⟩, ⟨y, y⟩ and ⟨x, y⟩.

    On a line where the magnitude of their cosine is `straight` or more, or the sine of their angle below 1e-6, as what
    is left of opposite vectors is rounding. A vector that is 0 counts as at right angles.
    """
    length = sqrt(first * second)
    cosine = max(-1.0, min(1.0, product / length)) if length else 0.0
    angle = acos(cosine)
    if abs(cosine) >= straight or sin(angle) < 1e-6:
        return 1 - t, t
    return sin((1 - t) * angle) / sin(angle), sin(t * angle) / sin(angle)
