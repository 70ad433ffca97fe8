"""Merge each linear layer by regression, as RegMean, on what the merged layers before it give."""

from __future__ import annotations

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.compute.regression import regress
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.plan.measured import check_statistics, statistics_of
from nmerge_core.merging.plan.regression import SCALE, is_regressed, needs, prepared_regression
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.shared_parameters import (
    CATEGORY,
    CORPUS,
    MEASURED_TEXTS,
    SHARE,
    STATISTICS,
    TEXTS,
)
from nmerge_core.merging.recipe.values import Values


def check(context: Context, values: Values) -> None:
    """Check that there is something to measure on, and tokens that all models read alike."""
    context.check_total(values)
    folders = values.each["statistics"]
    if None in folders and any(folders):
        raise context.wrong("models[].parameters.statistics", "a folder for every model, or for none", list(folders))
    if None in folders and context.stream.vocabulary:
        raise context.wrong(
            "tokenizer", "models of one vocabulary, whose merged layers read the texts of all", "others"
        )
    check_statistics(context, values, "gram")


def prepare(context: Context, values: Values) -> Prepared:
    """Find each model's Gram matrices along the merge."""
    if None not in values.each["statistics"]:
        return prepared_regression(context, values, statistics_of(context, values, "gram"))
    from nmerge_core.merging.plan.along import grams_along  # it brings transformers along

    return prepared_regression(context, values, grams_along(context, values))


@method(
    "regmean_pp",
    title="RegMean++",
    paper="Nguyen et al., TMLR 2026",
    summary="Merge each linear layer as RegMean does, on what the layers before it give in the merge.",
    parameters=[
        SHARE,
        SCALE,
        STATISTICS.with_(help="Folder of this model's Gram matrices along this merge; collected if left out."),
        CORPUS,
        CATEGORY,
        TEXTS,
    ],
    results=[MEASURED_TEXTS],
    check=check,
    prepare=prepare,
    base="unused",
    solves=lambda values: None in values.each["statistics"],
    whole=is_regressed,
    needs=needs,
    version=2,
)
def merge(block: Block, values: Values, prepared: Prepared) -> torch.Tensor:
    """Return RegMean's W = (Σ w_t W_t G̃_t)(Σ w_t G̃_t)⁻¹ of a linear layer W (out, in), the average of all else.

    G_t is of what model t's own decoder layer reads where the merged layers before it give what enters it, on model t's
    texts: layer after layer is merged, and the texts go on through it. Embeddings are averaged first. The rest is as in
    `regmean`; merged layers are run in float32, whatever is written.
    """
    return regress(block, values.each["weight"], *prepared.data)
