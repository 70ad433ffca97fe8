"""Where fine-tunes of one base get in each other's way: interference of their directions, signs and cosines."""

from collections.abc import Sequence
from itertools import combinations

import pandas as pd
import torch
from torch import Tensor

from nmerge_core.architecture import LAYER
from nmerge_core.errors import InputError
from nmerge_core.merging.compute.spectral import singular
from nmerge_core.progress import Progress, silent
from nmerge_core.similarity import open_alike


def interference(base: str, models: Sequence[str], *, progress: Progress = silent) -> pd.DataFrame:
    """Measure for each matrix of a layer how far the changes τ_t = θ_t − θ_0 of T fine-tunes are in each other's way.

    TSV-M's measure is ‖(UᵀU − I) S (VᵀV − I)‖₁, the sum over all entries, of the top ⌊min(rows, columns)/T⌋ singular
    triples of each τ_t side by side (Gargiulo et al., CVPR 2025): 0 where no two fine-tunes share a direction. Here it
    is divided by ‖S‖₁, so that it does not grow with the size of the change: two equal changes have 1; many weak
    overlaps, as unrelated ones have, add up to more. A matrix is read whole, and decomposed T times in float64.

    Args:
        base: the base model.
        models: at least two fine-tunes of it.
        progress: told of matrices.

    Returns:
        layer, matrix (its name in the layer), interference, opposed (share of the entries that several fine-tunes
        changed in which they disagree about the sign; NaN where there are none), lost (1 − ‖Σ τ_t‖₁ / Σ ‖τ_t‖₁, what is
        lost where they are added up), cosine (the mean of that of every two τ_t that are not 0). NaN where nothing
        changed.

    Raises:
        InputError: there are fewer than two fine-tunes, a model cannot be opened, or it is not of the base's shape.
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
        start, *tuned = (each.read_matrix(name, oriented, 0, oriented.rows).double() for each in opened)
        place = {"layer": layers[name], "matrix": _within(name)}
        rows.append(place | _measures(torch.stack(tuned) - start))
    progress("Looking for interference", len(names), len(names), "matrices")
    return pd.DataFrame(rows)


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
    return {
        "interference": float(singular_interference(deltas)),
        "opposed": float(opposed),
        "lost": float(1 - deltas.sum(0).abs().sum() / absolute),
        "cosine": float(torch.stack(cosines).mean()) if cosines else float("nan"),
    }


def singular_interference(deltas: Tensor) -> Tensor:
    """Return ‖(UᵀU − I) S (VᵀV − I)‖₁ / ‖S‖₁ of changes (T, rows, columns); NaN where there are none."""
    count = max(1, min(deltas.shape[1:]) // len(deltas))
    found = [singular(delta).top(count) for delta in deltas if delta.any()]
    if not found:
        return torch.tensor(float("nan"))
    left, right = (torch.cat([getattr(each, side) for each in found], 1) for side in ("left", "right"))
    sizes = torch.cat([each.sizes for each in found])  # (k,)
    one = torch.eye(len(sizes), dtype=sizes.dtype)
    return ((left.T @ left - one) * sizes @ (right.T @ right - one)).abs().sum() / sizes.sum()
