"""Trim, elect sign, merge what agrees."""

from collections.abc import Mapping, Sequence

from nmerge_core.merging.context import Context, Facts
from nmerge_core.merging.entrywise import Entrywise
from nmerge_core.merging.parameters import DENSITY, LAMBDA, NORMALIZE, TRIM, WEIGHT, with_default
from nmerge_core.merging.registry import Values, method

Thresholds = Sequence[float] | Mapping[str, Sequence[float]]


def prepare(context: Context, values: Values) -> Facts:
    """Find each model's trim threshold, over the whole model or per tensor."""
    densities, rule = values.each["density"], values.shared["trim"]
    varies = any(isinstance(density, list) for density in densities)
    if rule == "tensor" or (rule == "auto" and varies):
        return Facts(context.tensor_thresholds(values), solved={"trim": "tensor"})
    if varies:
        raise context.wrong("density", "one number with trim: model, whose threshold is the whole model's", densities)
    thresholds = [each.threshold for each in context.magnitudes(densities)]
    report = {"thresholds": dict(zip(context.labels, thresholds, strict=True))}
    return Facts(thresholds, solved={"trim": "model"}, report=report)


@method(
    "ties",
    title="TIES-Merging",
    paper="Yadav et al., NeurIPS 2023",
    summary="Keep each model's largest changes, agree on a sign per weight, average what agrees.",
    parameters=[WEIGHT, with_default(DENSITY, 0.2), LAMBDA, TRIM, with_default(NORMALIZE, True)],
    prepare=prepare,
    passes=lambda values: 2,
    entrywise=True,
)
def rule(name: str, values: Values, facts: Facts) -> Entrywise:
    """λ times the mean (weighted by |w|) of the trimmed deltas that agree with the elected sign."""
    thresholds: Thresholds = facts.data
    return Entrywise(
        values.each["weight"],
        values.shared["lambda"],
        values.shared["normalize"],
        thresholds=thresholds[name] if isinstance(thresholds, Mapping) else thresholds,
        elect=True,
    )
