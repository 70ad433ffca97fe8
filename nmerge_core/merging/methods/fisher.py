"""Average the models' weights entry by entry, each model counting as much as its texts depend on the entry."""

from __future__ import annotations

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.compute.entrywise import total_weight
from nmerge_core.merging.compute.primitives import weighted_sum
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.plan.measured import check_statistics, prepared_by, statistics_of
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.shared_parameters import MEASURED, MEASURED_TEXTS, SHARE
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.values import Number


def check(context: Context, values: Values) -> None:
    """Check that rows of embeddings need not be matched by their tokens, and that there is something to measure on."""
    if context.stream.vocabulary:
        expected = "models of one vocabulary, as Fisher information is of rows by position"
        raise context.wrong("models", expected, "vocabularies that differ; take another method, or leave them out")
    context.check_total(values)
    check_statistics(context, values, "fisher")


def prepare(context: Context, values: Values) -> Prepared:
    """Find each model's Fisher information."""
    found = statistics_of(context, values, "fisher")
    return prepared_by(context, values, found, (context.stream, [statistics.tensors for statistics in found]))


@method(
    "fisher",
    title="Fisher merging",
    paper="Matena & Raffel, NeurIPS 2022",
    summary="Average each weight, a model counting as much as the likelihood of its texts depends on the weight.",
    parameters=[
        SHARE,
        Number(
            name="floor",
            default=1e-6,
            help="Least Fisher information.",
            low=0,
            step=1e-6,
            above_low=True,
            open_end=True,
        ),
        *MEASURED,
    ],
    results=[MEASURED_TEXTS],
    check=check,
    prepare=prepare,
    base="unused",
    by_layer=True,
    solves=lambda values: None in values.beside("statistics"),
    version=2,
)
def merge(block: Block, values: Values, prepared: Prepared) -> torch.Tensor:
    """Return Σ w_t F_t θ_t / Σ w_t F_t with F_t the diagonal Fisher information, at least `floor`.

    What F_t is of a language model is told at `calibration.fisher`; while it is measured, a model of half a billion
    parameters or less is in memory whole. A tensor without F, such as a buffer, is averaged.
    The authors' code divides each F by its norm over the model before, and floors that of the first model alone; the
    paper's formula has neither, and weights can say as much.
    """
    stream, fisher = prepared.data
    weights = values.each["weight"]
    total = total_weight(weights)
    if any(block.name not in own.tensors for own in fisher):
        return weighted_sum(block.deltas, weights) / total
    floored = [stream.beside(block, own).clamp_(min=values.shared["floor"]) for own in fisher]
    importance = torch.stack([own * weight for own, weight in zip(floored, weights, strict=True)])  # (T, rows, columns)
    return (importance * block.deltas).sum(0) / importance.sum(0)
