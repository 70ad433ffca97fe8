"""Trim, elect sign, merge what agrees."""

from collections.abc import Mapping, Sequence

import torch

from nmerge_core.merging.block import Block
from nmerge_core.merging.context import Context, Facts
from nmerge_core.merging.parameters import DENSITY, LAMBDA, NORMALIZE, TRIM, WEIGHT, with_default
from nmerge_core.merging.primitives import elected_sum, trim
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
)
def merge(block: Block, values: Values, facts: Facts) -> torch.Tensor:
    """Return λ times the mean (weighted by |w|) of the trimmed deltas that agree with the elected sign."""
    thresholds: Thresholds = facts.data
    least = thresholds[block.name] if isinstance(thresholds, Mapping) else thresholds
    kept = trim(block.deltas, least)
    return elected_sum(kept, values.each["weight"], values.shared["normalize"]) * values.shared["lambda"]
