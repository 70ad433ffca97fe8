"""Drop changes at random and rescale the rest, then sum or elect."""

from nmerge_core.merging.compute.drop import Drop
from nmerge_core.merging.compute.entrywise import Entrywise
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.shared_parameters import DENSITY, LAMBDA, NORMALIZE, RESCALE, WEIGHT
from nmerge_core.merging.recipe.values import Values

_PAPER = "Yu et al., ICML 2024"
_PARAMETERS = [WEIGHT, DENSITY.with_(default=0.4), LAMBDA, RESCALE, NORMALIZE]


@method(
    "dare_linear",
    title="DARE",
    paper=_PAPER,
    summary="Drop most of each model's changes at random, rescale the rest, and add them up.",
    parameters=_PARAMETERS,
    entrywise=True,
)
def rule_linear(name: str, values: Values, prepared: None) -> Entrywise:
    """λ Σ w_t of the dropped and rescaled deltas."""
    return _rule(values, elect=False)


@method(
    "dare_ties",
    title="DARE + TIES",
    paper=_PAPER,
    summary="Drop at random and rescale, then keep only what agrees with the elected sign.",
    parameters=_PARAMETERS,
    entrywise=True,
)
def rule_ties(name: str, values: Values, prepared: None) -> Entrywise:
    """λ times the elected sum of the dropped and rescaled deltas, their mean if `normalize`."""
    return _rule(values, elect=True)


def _rule(values: Values, elect: bool) -> Entrywise:
    drop = Drop(values.each["density"], values.shared["rescale"], values.shared["seed"])
    return Entrywise(values.each["weight"], values.shared["lambda"], values.shared["normalize"], drop=drop, elect=elect)
