"""Trim, elect sign, merge what agrees."""

from collections.abc import Mapping, Sequence

from nmerge_core.merging.compute.entrywise import Entrywise
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.recipe.prepared import Prepared, Result
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.shared_parameters import DENSITY, LAMBDA, NORMALIZE, TRIM, WEIGHT
from nmerge_core.merging.recipe.values import Values

Thresholds = Sequence[float] | Mapping[str, Sequence[float]]


def check(context: Context, values: Values) -> None:
    """Check that a threshold of the whole model keeps one density."""
    if values.shared["trim"] == "model" and _varies(values):
        expected = "one number with trim: model, whose threshold is the whole model's"
        raise context.wrong("density", expected, values.each["density"])


def _varies(values: Values) -> bool:
    return any(isinstance(density, list) for density in values.each["density"])


def prepare(context: Context, values: Values) -> Prepared:
    """Find each model's trim threshold, over the whole model or per tensor."""
    densities, rule = values.each["density"], values.shared["trim"]
    if rule == "tensor" or (rule == "auto" and _varies(values)):
        return Prepared(context.tensor_thresholds(values), solved={"trim": "tensor"})
    thresholds = context.thresholds(densities)
    report = {"thresholds": dict(zip(context.labels, thresholds, strict=True))}
    return Prepared(thresholds, solved={"trim": "model"}, report=report)


@method(
    "ties",
    title="TIES-Merging",
    paper="Yadav et al., NeurIPS 2023",
    summary="Keep each model's largest changes, agree on a sign per weight, average what agrees.",
    parameters=[WEIGHT, DENSITY.with_(default=0.2), LAMBDA, TRIM, NORMALIZE.with_(default=True)],
    results=[Result("thresholds", "Least |τ| kept", "models", "Trim threshold over the whole model")],
    check=check,
    prepare=prepare,
    passes=lambda values: 2,
    entrywise=True,
)
def rule(name: str, values: Values, prepared: Prepared) -> Entrywise:
    """λ times the mean (weighted by |w|) of the trimmed deltas that agree with the elected sign."""
    thresholds: Thresholds = prepared.data
    return Entrywise(
        values.each["weight"],
        values.shared["lambda"],
        values.shared["normalize"],
        thresholds=thresholds[name] if isinstance(thresholds, Mapping) else thresholds,
        elect=True,
    )
