"""Interpolate from the base to one model along an arc."""

from nmerge_core.merging.compute.entrywise import Entrywise
from nmerge_core.merging.compute.inner_products import slerp
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.shared_parameters import POSITION
from nmerge_core.merging.recipe.values import Values

_STRAIGHT = 0.9995


def prepare(context: Context, values: Values) -> Prepared:
    """Find the angle between base and model in each tensor."""
    return Prepared(context.inner_products())


@method(
    "slerp",
    title="SLERP",
    paper="Shoemake, SIGGRAPH 1985; mergekit",
    summary="Go from the base to one other model along an arc, tensor by tensor, so that lengths are kept.",
    parameters=[POSITION.with_(help="How far to go from the base, 0, to the model, 1.")],
    prepare=prepare,
    passes=lambda values: 2,
    most=1,
    entrywise=True,
    version=2,
)
def rule(name: str, values: Values, prepared: Prepared) -> Entrywise:
    """θ = (sin((1 − t)φ) θ0 + sin(tφ) θ1) / sin φ less θ0, φ the angle between the whole tensors θ0 and θ1.

    On a straight line where |cos φ| ≥ 0.9995, as in mergekit. NeuronMerge's amplify multiplies a change on the arc of
    the unmultiplied one: at 0 what the arc itself does to θ0's length stays, so that this is not `drop`.
    """
    products = prepared.data[name]
    base, product, change = products[0, 0], products[0, 0] + products[0, 1], products[1, 1]
    second = base + 2 * products[0, 1] + change
    of_base, of_model = slerp(values.shared["t"], base, max(second, 0.0), product, _STRAIGHT)
    return Entrywise((of_model,), of_base=of_base + of_model - 1)
