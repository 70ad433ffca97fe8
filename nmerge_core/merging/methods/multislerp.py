"""Merge the directions of what models changed, and its lengths, apart."""

from math import sqrt

import numpy as np

from nmerge_core.merging.compute.entrywise import Entrywise
from nmerge_core.merging.compute.inner_products import Products, cosines
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.shared_parameters import WEIGHT
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.values import Flag

_BALANCED = 1e-8  # a mean of unit vectors that is shorter has no direction


def check(context: Context, values: Values) -> None:
    """Check that there is something to divide by."""
    if values.shared["normalize_weights"]:
        context.check_total(values)


def prepare(context: Context, values: Values) -> Prepared:
    """Find lengths and angles in each tensor."""
    return Prepared(context.inner_products())


@method(
    "multislerp",
    title="Multi-SLERP",
    paper="mergekit",
    summary="Move each tensor in the mean direction of what the models changed, by the mean of their lengths.",
    parameters=[WEIGHT, Flag(name="normalize_weights", default=True, help="Divide the weights by their sum.")],
    check=check,
    prepare=prepare,
    base="optional",
    passes=lambda values: 2,
    entrywise=True,
    version=2,
)
def rule(name: str, values: Values, prepared: Prepared) -> Entrywise:
    """(Σ w_t ‖τ_t‖) · u/‖u‖ with u = Σ w_t τ_t/‖τ_t‖ over the whole tensor, Σ w_t τ_t where u = 0.

    Without a base of the weights themselves. mergekit's step in the tangent space at u/‖u‖ is zero, as u has no part
    across itself, and is left out; where u = 0 mergekit merges two models so and refuses more. One model is itself.
    """
    weights = np.array(values.each["weight"])
    if len(weights) == 1:
        return Entrywise((1.0,))
    if values.shared["normalize_weights"]:
        weights = weights / weights.sum()
    return Entrywise(_shares(weights, prepared.data[name][1:, 1:]).tolist())


def _shares(weights: Products, products: Products) -> Products:
    """Return how much of each model is taken, (T,)."""
    lengths = np.sqrt(products.diagonal())
    length = sqrt(max(0.0, float(weights @ cosines(products) @ weights)))  # ‖u‖
    if length < _BALANCED:
        return weights
    scale = (weights @ lengths) / length
    return np.divide(scale * weights, lengths, out=np.zeros_like(weights), where=lengths > 0)
