"""Where fine-tunes of one base get in each other's way: interference of their directions, signs and cosines."""

import math
from collections.abc import Sequence
from itertools import combinations

import pandas as pd
import torch
from torch import Tensor

from nmerge_core.architecture import LAYER, Matrix
from nmerge_core.checkpoints import Checkpoint
from nmerge_core.checkpoints.finite import finite
from nmerge_core.errors import InputError
from nmerge_core.merging.compute.spectral import singular
from nmerge_core.progress import Progress, silent
from nmerge_core.similarity.blocks import open_alike


def interference(base: str, models: Sequence[str], *, progress: Progress = silent) -> pd.DataFrame:
    """Measure for each matrix of a layer how far the changes τ_t = θ_t − θ_0 of T fine-tunes are in each other's way.

    TSV-M's measure is ‖(UᵀU − I) S (VᵀV − I)‖₁, the sum over all entries, of the top ⌊min(rows, columns)/T⌋ singular
    triples of each τ_t side by side (Gargiulo et al., CVPR 2025): 0 where no two fine-tunes share a direction. Here it
    is divided by ‖S‖₁, so that it does not grow with the size of the change: two equal changes have 1. Unrelated
    directions overlap too, weakly and many of them, in a small matrix more; `chance` is the same of random directions
    with the same singular values, and what is above it is shared. A matrix is read whole, and decomposed T times in
    float64.

    Args:
        base: the base model.
        models: at least two fine-tunes of it.
        progress: told of matrices.

    Returns:
        layer, matrix (its name in the layer), interference, chance, opposed (share of the entries that several
        fine-tunes changed in which they disagree about the sign; NaN where there are none), lost (1 − ‖Σ τ_t‖₁ /
        Σ ‖τ_t‖₁, what is lost where they are added up), cosine (the mean of that of every two τ_t that are not 0). NaN
        where nothing changed.

    Raises:
        InputError: there are fewer than two fine-tunes, a model cannot be opened, is not of the base's shape, or has
            weights that are not finite.
    """
    if len(models) < 2:
        raise InputError(f"models: expected at least two fine-tunes, to see if they disagree, found {len(models)}")
    opened = open_alike(base, models)
    architecture = opened[0].architecture
    layers = {name: architecture.layer_of(name) for name in opened[0].tensors if architecture.matrix(name).neuronal}
    names = sorted((name for name, layer in layers.items() if layer is not None), key=lambda name: layers[name] or 0)
    rows = []
    for done, name in enumerate(names):
        progress("Looking for interference", done, len(names), "matrices")
        oriented = architecture.matrix(name)
        start, *tuned = (_read(each, name, oriented) for each in opened)
        place = {"layer": layers[name], "matrix": _within(name)}
        rows.append(place | _measures(torch.stack(tuned) - start))
    progress("Looking for interference", len(names), len(names), "matrices")
    return pd.DataFrame(rows)


def _read(checkpoint: Checkpoint, name: str, oriented: Matrix) -> Tensor:
    return finite(checkpoint, name, checkpoint.read_matrix(name, oriented, 0, oriented.rows).double())


def _within(name: str) -> str:
    found = LAYER.match(name)
    return (found["rest"] if found else name).removesuffix(".weight")


def _measures(deltas: Tensor) -> dict[str, float]:
    """Compare changes (T, rows, columns)."""
    absolute = deltas.abs().sum()
    several = (deltas != 0).sum(0) > 1  # (rows, columns)
    opposed = ((deltas > 0).any(0) & (deltas < 0).any(0))[several].double().mean()
    flat = [delta.flatten() for delta in deltas if delta.any()]
    cosines = [torch.cosine_similarity(one, other, dim=0) for one, other in combinations(flat, 2)]
    shared, chance = singular_interference(deltas)
    return {
        "interference": shared,
        "chance": chance,
        "opposed": float(opposed),
        "lost": float(1 - deltas.sum(0).abs().sum() / absolute),
        "cosine": float(torch.stack(cosines).mean()) if cosines else math.nan,
    }


def singular_interference(deltas: Tensor) -> tuple[float, float]:
    """Return ‖(UᵀU − I) S (VᵀV − I)‖₁ / ‖S‖₁ of changes (T, rows, columns), and of random U and V; NaN of none."""
    rows, columns = deltas.shape[1:]
    count = max(1, min(rows, columns) // len(deltas))
    found = [singular(delta).top(count) for delta in deltas if delta.any()]
    if not found:
        return math.nan, math.nan
    chance = torch.Generator().manual_seed(0)

    def random(height: int, own: Tensor) -> Tensor:
        return torch.linalg.qr(torch.randn(height, len(own), generator=chance, dtype=own.dtype))[0]

    sizes = [each.sizes for each in found]
    own = _overlap([each.left for each in found], sizes, [each.right for each in found])
    return own, _overlap([random(rows, each) for each in sizes], sizes, [random(columns, each) for each in sizes])


def _overlap(left: Sequence[Tensor], sizes: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    u, s, v = torch.cat([*left], 1), torch.cat([*sizes]), torch.cat([*right], 1)  # (rows, k), (k,), (columns, k)
    one = torch.eye(len(s), dtype=s.dtype)
    return float(((u.T @ u - one) * s @ (v.T @ v - one)).abs().sum() / s.sum())
