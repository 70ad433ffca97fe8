"""Coefficients per model that a gradient-free search finds on a few examples of what the merge is for."""

from __future__ import annotations

from collections.abc import Callable

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.compute.primitives import weighted_sum
from nmerge_core.merging.plan.coefficient_search import (
    MODEL,
    candidate_of,
    check_coefficients,
    found_coefficients,
    load_texts,
    search,
    searches,
)
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.recipe.prepared import Prepared, Result
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.shared_parameters import (
    CALIBRATION,
    CATEGORY,
    COEFFICIENTS,
    EVALUATIONS,
    SAMPLES,
    SCALES,
)
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.values import Text

_BOUND = 1.5  # of |c_t| (§3.3)
_L1 = 0.05  # weight α of the mean of |c_t| (Eq. 3, the authors' code)


def check(context: Context, values: Values) -> None:
    """Check coefficients that a recipe brings, or that it names texts to search them on."""
    check_coefficients(context, values, [MODEL])
    if searches(values):
        context.check_calibration(values, _categories(context, values))


def _categories(context: Context, values: Values) -> list[str]:
    """Name the categories whose texts tell how good coefficients are."""
    target = values.shared["target"]
    return [target] if target else context.task_categories(values)


def prepare(context: Context, values: Values) -> Prepared:
    """Search c from 0, as the authors do: the loss is the mean next-token cross-entropy of the texts + 0.05·mean|c|.

    CMA-ES stands in for the authors' NGOpt of nevergrad, which picks among such searches by itself.
    """
    if not searches(values):
        return found_coefficients(context, values.shared["coefficients"])
    batches = load_texts(context, values, _categories(context, values))
    candidate = candidate_of(context)

    def loss(coefficients: list[float], tick: Callable[[], None]) -> float:
        candidate.fill(lambda block: weighted_sum(block.deltas, coefficients), tick)
        penalty = sum(map(abs, coefficients)) / len(coefficients)
        return candidate.cross_entropy(batches, tick) + _L1 * penalty

    found = search(context, values, loss, low=-_BOUND, high=_BOUND)
    told = {"loss": found.value, "history": found.history, "run_dtype": candidate.language_model.run_dtype}
    return found_coefficients(context, {MODEL: found.point}, **told)


@method(
    "lorahub",
    title="LoraHub",
    paper="Huang et al., COLM 2024",
    summary="Add up the changes by coefficients that a search without gradients finds on a few example texts.",
    version=2,
    parameters=[
        CALIBRATION,
        Text(name="target", help="The corpus category the merge is for; the categories of all its models if unset."),
        CATEGORY,
        SAMPLES.with_(default=5, help="Example texts per category (paper: 5)."),
        EVALUATIONS,
        COEFFICIENTS,
    ],
    results=[
        SCALES,
        Result("loss", "Cross-entropy and penalty of the best candidate", "number"),
        Result("history", "Loss of each candidate", "history"),
    ],
    check=check,
    prepare=prepare,
    passes=lambda values: 1 + searches(values) * values.shared["evaluations"],
    searches=searches,
)
def merge(block: Block, values: Values, prepared: Prepared) -> torch.Tensor:
    """Return Σ c_t τ_t, of adapters and of whole fine-tunes alike."""
    return weighted_sum(block.deltas, prepared.data[MODEL])
