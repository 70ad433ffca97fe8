"""Merge each linear layer into the one that comes closest to what every model's layer gives on its own texts."""

from __future__ import annotations

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.compute.regression import regress
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.plan.measured import check_statistics, statistics_of
from nmerge_core.merging.plan.regression import SCALE, is_regressed, needs, prepared_regression
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.shared_parameters import MEASURED, MEASURED_TEXTS, SHARE
from nmerge_core.merging.recipe.values import Values


def check(context: Context, values: Values) -> None:
    """Check that there is something to measure on."""
    context.check_total(values)
    check_statistics(context, values, "gram")


def prepare(context: Context, values: Values) -> Prepared:
    """Find each model's Gram matrices."""
    return prepared_regression(context, values, statistics_of(context, values, "gram"))


@method(
    "regmean",
    title="RegMean",
    paper="Jin et al., ICLR 2023",
    summary="Merge each linear layer by regression: closest to what each model's layer gives on its own texts.",
    when="With texts of each task, and minutes of time: of all methods the lowest loss on the demo family.",
    parameters=[
        SHARE,
        SCALE,
        *MEASURED,
    ],
    results=[MEASURED_TEXTS],
    check=check,
    prepare=prepare,
    base="unused",
    by_layer=True,
    solves=lambda values: None in values.beside("statistics"),
    whole=is_regressed,
    needs=needs,
    version=3,
)
def merge(block: Block, values: Values, prepared: Prepared) -> torch.Tensor:
    """Return W = (Σ w_t W_t G̃_t)(Σ w_t G̃_t)⁻¹ of a linear layer W (out, in), the weighted average of all else.

    G̃ is the model's mean of x xᵀ over tokens, as in the authors' code (the paper's is the sum, which favours longer
    texts), off-diagonal entries times `scale`. Computed as the average W̄ plus
    (Σ w_t (W_t − W̄) G̃_t)(Σ w_t G̃_t)⁻¹, the same where the sum is regular; where it is singular this takes, among the
    best W, one that is near the average rather than near zero: the paper leaves it open.
    """
    return regress(block, values.each["weight"], *prepared.data)
