"""Lengths and angles of whole tensors, and what interpolation along arcs takes of each of two."""

from __future__ import annotations

from collections.abc import Sequence
from math import acos, sin, sqrt

import numpy as np
from numpy.typing import NDArray

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.stream import Rows, Stream
from nmerge_core.parallel import in_order
from nmerge_core.progress import Progress

Products = NDArray[np.float64]


def inner_products(stream: Stream, names: Sequence[str], progress: Progress) -> dict[str, Products]:
    """Return per tensor ⟨x_i, x_j⟩ of x = (θ0, τ_1, …, τ_T), its entries as one vector: (1 + T, 1 + T) float64.

    Without a base θ0 is 0 and τ_t are the weights. Blocks are summed in the order of their rows.
    """
    rows = [each for name in names for each in stream.rows(name)]
    count = 1 + len(stream.models)
    found = {name: np.zeros((count, count)) for name in names}

    def work(each: Rows) -> Products:
        block = stream.load(each)
        held = torch.cat([block.base[None], block.deltas]).flatten(1).double()  # (1 + T, entries)
        products: Products = (held @ held.T).cpu().numpy()
        return products

    for done, (each, own) in enumerate(zip(rows, in_order(work, rows), strict=True)):
        progress("Lengths and angles", done, len(rows), "blocks")
        found[each.name] += own
    return found


def cosines(products: Products) -> Products:
    """Return the cosines of the angles between vectors from their inner products; 0 where one is 0."""
    lengths = np.sqrt(products.diagonal())
    scale = np.outer(lengths, lengths)
    found: Products = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0).clip(-1, 1)
    return found


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
