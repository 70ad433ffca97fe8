"""Merge models into the point whose arcs to all of them balance."""

from math import sqrt

import numpy as np

from nmerge_core.merging.compute.entrywise import Entrywise
from nmerge_core.merging.compute.inner_products import Products, cosines
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.values import Number


def prepare(context: Context, values: Values) -> Prepared:
    """Find how much of each model the mean takes, tensor by tensor."""
    steps, tolerance = values.shared["max_iter"], values.shared["tol"]
    found = context.inner_products()
    return Prepared({name: _shares(own[1:, 1:], steps, tolerance).tolist() for name, own in found.items()})


@method(
    "karcher",
    title="Karcher mean",
    paper="arXiv 2603.04972; mergekit",
    summary="The mean of the models on a sphere, tensor by tensor, so that lengths are kept; no base is needed.",
    parameters=[
        Number(
            name="max_iter",
            default=10,
            help="Steps towards the mean, at most.",
            low=1,
            high=100,
            step=1,
            whole=True,
            open_end=True,
        ),
        Number(
            name="tol", default=1e-5, help="Length of a step, in radians, that ends them.", low=0, high=0.01, step=1e-5
        ),
    ],
    prepare=prepare,
    base="unused",
    passes=lambda values: 2,
    entrywise=True,
    version=2,
)
def rule(name: str, values: Values, prepared: Prepared) -> Entrywise:
    """mean‖θ_t‖ · m, m the unit vector from which the arcs to all θ_t/‖θ_t‖ of the whole tensor sum to zero.

    m is found by steps along the mean arc, from the mean of the unit vectors. Tensors that are zero have no direction
    and count with their length alone. A base that a recipe names is not merged unless it stands among the models.
    """
    return Entrywise(prepared.data[name])


def _shares(products: Products, steps: int, tolerance: float) -> Products:
    """Return the share of each model in the mean, (T,).

    All that is computed lies in the span of the unit vectors, so their cosines are enough.
    """
    lengths, angles = np.sqrt(products.diagonal()), cosines(products)
    real = lengths > 0
    if not real.any():
        return np.zeros_like(lengths)
    each = real / real.sum()
    mean = each.copy()  # of the unit vectors
    if _length(mean, angles) <= tolerance:
        mean = np.eye(len(lengths))[real.argmax()]
    mean /= _length(mean, angles)
    for _ in range(steps):
        cosine = (angles @ mean).clip(-1, 1)
        arcs = np.arccos(cosine)
        far = real & (arcs >= tolerance) & (np.sin(arcs) > 0)
        pulls = each * np.divide(arcs, np.sin(arcs), out=np.zeros_like(arcs), where=far)
        tangent = pulls - (pulls @ cosine) * mean
        length = _length(tangent, angles)
        if length <= tolerance:
            break
        mean = np.cos(length) * mean + np.sin(length) / length * tangent
        mean /= _length(mean, angles)
    return np.divide(lengths.mean() * mean, lengths, out=np.zeros_like(mean), where=real)


def _length(shares: Products, angles: Products) -> float:
    return sqrt(max(0.0, float(shares @ angles @ shares)))
