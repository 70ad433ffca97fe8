"""Weighted average of the models' weights."""

from nmerge_core.merging.compute.entrywise import Entrywise
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.shared_parameters import NORMALIZE, WEIGHT
from nmerge_core.merging.recipe.values import Values


def check(context: Context, values: Values) -> None:
    """Check that there is something to divide by."""
    if values.shared["normalize"]:
        context.check_total(values)


@method(
    "linear",
    title="Averaging",
    paper="Wortsman et al., Model soups, ICML 2022",
    summary="The weighted mean of the models' weights; no base is needed.",
    parameters=[WEIGHT, NORMALIZE.with_(default=True)],
    check=check,
    base="unused",
    entrywise=True,
)
def rule(name: str, values: Values, prepared: None) -> Entrywise:
    """Σ w_t θ_t, over Σ w if `normalize`."""
    return Entrywise(values.each["weight"], normalize=values.shared["normalize"])
