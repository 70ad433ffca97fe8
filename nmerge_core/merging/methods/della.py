"""Drop changes at random, the smaller of a neuron's more often, and rescale the rest by their own chance."""

from nmerge_core.merging.compute.entrywise import total_weight
from nmerge_core.merging.compute.magprune import MagPrune
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.shared_parameters import DENSITY, LAMBDA, NORMALIZE, RESCALE, WEIGHT
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.values import Number

_PAPER = "Deep et al., arXiv 2406.11617"
_PARAMETERS = [
    WEIGHT,
    DENSITY.with_(default=0.5, help="Mean chance of a change to be kept, in (0, 1]; 1 drops nothing."),
    Number(
        name="epsilon",
        default=0.15,
        help="By how much the chance of a neuron's largest change is above the mean, and that of its smallest below.",
        low=0,
        high=0.5,
        step=0.01,
        per_model=True,
        varies=True,
    ),
    LAMBDA,
    RESCALE.with_(help="Divide what is kept by its chance, so that the expected change stays the same."),
]


def check(context: Context, values: Values) -> None:
    """Check that chances lie between 0 and 1."""
    for name in context.names:
        own = context.values_of(name, values)
        for density, epsilon in zip(own.each["density"], own.each["epsilon"], strict=True):
            if density < 1 and not epsilon < min(density, 1 - density):
                expected = f"less than density {density:g} and than 1 − density, so that every chance lies in (0, 1)"
                raise context.wrong("parameters.epsilon", expected, f"{epsilon:g}")


def check_linear(context: Context, values: Values) -> None:
    """Check the same, and that there is something to divide by."""
    check(context, values)
    if values.shared["normalize"]:
        context.check_total(values)


@method(
    "della_linear",
    title="DELLA, without election",
    paper=_PAPER,
    summary="Drop changes at random, the smaller of a neuron's more often, rescale the rest, and add them up.",
    parameters=[*_PARAMETERS, NORMALIZE],
    check=check_linear,
    rowwise=True,
    version=3,
)
def rule_linear(name: str, values: Values, prepared: None) -> MagPrune:
    """λ Σ w_t of the deltas that `della` keeps, over Σ w if `normalize`."""
    return _rule(values, elect=False)


@method(
    "della",
    title="DELLA",
    paper=_PAPER,
    summary="Drop changes at random, the smaller of a neuron's more often, rescale, keep what has the elected sign.",
    parameters=[*_PARAMETERS, NORMALIZE.with_(default=True)],
    check=check,
    rowwise=True,
    version=3,
)
def rule(name: str, values: Values, prepared: None) -> MagPrune:
    """λ times the elected sum of what is kept, its mean if `normalize`.

    The chance of the entry of rank i of n in its row, the smallest being i = 1, is density − ε + 2ε (i − 1)/(n − 1).
    What is kept is divided by it (MagPrune, Eq. 4), where mergekit multiplies all by one factor that keeps Σ |τ|.
    """
    return _rule(values, elect=True)


def _rule(values: Values, elect: bool) -> MagPrune:
    weights, normalize = values.each["weight"], values.shared["normalize"]
    return MagPrune(
        weights,
        values.shared["lambda"],
        values.each["density"],
        values.each["epsilon"],
        values.shared["rescale"],
        values.shared["seed"],
        elect,
        normalize,
        total_weight(weights) if normalize and not elect else 1.0,
    )
