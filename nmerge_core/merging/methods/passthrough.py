"""Take one model's weights as they are."""

from nmerge_core.merging.compute.entrywise import Entrywise
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.values import Number


@method(
    "passthrough",
    title="Passthrough",
    paper="mergekit",
    summary="Take one model's weights as they are: with slices, layers of several models one after the other.",
    parameters=[
        Number(
            name="scale",
            default=1.0,
            help="What the weights are multiplied by.",
            low=-2,
            high=2,
            step=0.05,
            per_model=True,
            varies=True,
            open_start=True,
            open_end=True,
        )
    ],
    base="unused",
    most=1,
    entrywise=True,
)
def rule(name: str, values: Values, prepared: None) -> Entrywise:
    """Scale · θ."""
    return Entrywise(values.each["scale"])
