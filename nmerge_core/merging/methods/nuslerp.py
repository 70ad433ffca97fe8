"""Interpolate between what two models changed along an arc, with weights for both."""

from __future__ import annotations

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.compute.inner_products import slerp
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.shared_parameters import WEIGHT
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.values import Flag

_BALANCED = 1e-6  # weights that sum to less, of either sign, count as equal


def prepare(context: Context, values: Values) -> Prepared:
    """Find the angle between the two in each tensor, where it is the whole tensor's."""
    return Prepared(context.inner_products() if values.shared["nuslerp_flatten"] else None)


@method(
    "nuslerp",
    title="NuSLERP",
    paper="mergekit",
    summary="Go from what one model changed to what another did along an arc, as far as their weights say.",
    parameters=[
        WEIGHT,
        Flag(name="nuslerp_flatten", default=True, help="One angle for a whole tensor, instead of one for each row."),
        Flag(
            name="nuslerp_row_wise",
            help="Without nuslerp_flatten: an angle for each column (input of a layer) instead of each row (neuron).",
        ),
    ],
    prepare=prepare,
    base="optional",
    fewest=2,
    most=2,
    whole=lambda place, values: values.shared["nuslerp_row_wise"] and not values.shared["nuslerp_flatten"],
    passes=lambda values: 2 if values.shared["nuslerp_flatten"] else 1,
    version=2,
)
def merge(block: Block, values: Values, prepared: Prepared) -> torch.Tensor:
    """Return (sin((1 − t)φ) τ1 + sin(tφ) τ2) / sin φ with t = w2 / (w1 + w2) and φ the angle between τ1 and τ2.

    Without a base of the weights themselves. Without `nuslerp_flatten` an angle per weight neuron; of a vector one.
    """
    first, second = values.each["weight"]
    t = second / (first + second) if abs(first + second) >= _BALANCED else 0.5
    x, y = block.deltas
    if prepared.data is not None:
        products = prepared.data[block.name]
        of_x, of_y = slerp(t, products[1, 1], products[2, 2], products[1, 2])
        return x * of_x + y * of_y
    return _by_vector(t, x, y, axis=0 if values.shared["nuslerp_row_wise"] and block.neuronal else 1)


def _by_vector(t: float, x: torch.Tensor, y: torch.Tensor, axis: int) -> torch.Tensor:
    """Interpolate between the vectors along an axis of x and y, (rows, columns), by an angle for each two."""
    lengths = x.norm(dim=axis, keepdim=True) * y.norm(dim=axis, keepdim=True)
    cosines = ((x * y).sum(axis, keepdim=True) / torch.where(lengths == 0, 1.0, lengths)).clamp(-1, 1)
    straight = cosines.abs() == 1
    angles = torch.where(straight, 0.0, cosines).acos()
    of_x = torch.where(straight, 1 - t, ((1 - t) * angles).sin() / angles.sin())
    of_y = torch.where(straight, t, (t * angles).sin() / angles.sin())
    return x * of_x + y * of_y
