"""Weighted average of the models' weights."""

from nmerge_core.merging.entrywise import Entrywise
from nmerge_core.merging.parameters import NORMALIZE, WEIGHT, with_default
from nmerge_core.merging.registry import Values, method


@method(
    "linear",
    title="Averaging",
    paper="Wortsman et al., Model soups, ICML 2022",
    summary="The weighted mean of the models' weights; no base is needed.",
    parameters=[WEIGHT, with_default(NORMALIZE, True)],
    needs_base=False,
    entrywise=True,
)
def rule(name: str, values: Values, facts: None) -> Entrywise:
    """Σ w_t θ_t, over Σ w if `normalize`."""
    return Entrywise(values.each["weight"], normalize=values.shared["normalize"])
