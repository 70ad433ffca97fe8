"""Weigh each entry by how much its task cares for it and how much the tasks agree (parameter competition balancing)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.compute.order_statistics import Ranking
from nmerge_core.merging.compute.stream import Rows
from nmerge_core.merging.plan.coefficient_search import (
    MODEL,
    candidate_of,
    check_coefficients,
    found_coefficients,
    load_evaluator,
    search,
    searches,
)
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.recipe.prepared import Prepared, Result
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.shared_parameters import (
    COEFFICIENTS,
    EVALUATIONS,
    LAMBDA,
    LIMIT,
    MASK_RATIO,
    RUN_CODE,
    SCALES,
    TASKS,
    WEIGHT,
)
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.values import Number

# Of the search for λ_t, which so starts at PCB-Merging without a search, in the middle; the paper names none.
_BOUND = 2.0


@dataclass(frozen=True)
class Range:
    """The least and largest value, over the whole model, that one model's entries are clipped to."""

    low: float
    high: float

    def scale(self, values: torch.Tensor) -> None:
        """Clip values to the range and map it to [0, 1], in place."""
        if width := self.high - self.low:
            values.clamp_(self.low, self.high).sub_(self.low).div_(width)
        else:
            values.zero_()


def prepare(context: Context, values: Values) -> Prepared:
    """Find each model's tails of |τ| and of its scores: exact whole-model order statistics, streamed."""
    count, entries = len(context.stream.models), context.entries
    clip, ratio = values.shared["tail_clip"], values.shared["mask_ratio"]
    # The authors' indices into the ascending order; rank 1 is the largest of all.
    tails = [entries - int(entries * clip), entries - int(entries * (1 - clip) - 1)]
    found = context.order_statistics(context.by_magnitude, [tails] * count, "Magnitudes")
    magnitudes = [Range(*own) for own in found]
    floor = [entries - int(entries * (1 - ratio)), 1]

    def scores(rows: Rows) -> torch.Tensor:
        return score(context.stream.load(rows), magnitudes).flatten(1)

    found = context.order_statistics(Ranking(scores), [floor] * count, "Scores")
    return Prepared((magnitudes, [Range(*own) for own in found]))


def score(block: Block, magnitudes: Sequence[Range]) -> torch.Tensor:
    """Return exp(T·minmax(|τ|)²) · tanh(τ_t · Σ_s τ_s): intra-balancing times inter-balancing, (T, …)."""
    sizes = block.deltas.abs()
    for own, each in zip(sizes, magnitudes, strict=True):
        each.scale(own)
    intra = sizes.square_().mul_(len(magnitudes)).exp_()
    return (block.deltas * block.deltas.sum(0)).tanh_().mul_(intra)


def balanced(block: Block, prepared: Prepared, weights: Sequence[float]) -> torch.Tensor:
    """Return Σ w_t τ̂_t ŝ_t / Σ ŝ_t with τ̂ clipped at its tails and ŝ the score floored and scaled to [0, 1]."""
    magnitudes, scores = prepared.data
    scale = score(block, magnitudes)  # (T, rows, columns)
    total = torch.zeros_like(block.base)
    for delta, own, each, tail, weight in zip(block.deltas, scale, scores, magnitudes, weights, strict=True):
        each.scale(own)
        total.add_(delta.sign().mul_(delta.abs().clamp_(tail.low, tail.high)).mul_(own), alpha=weight)
    return total.div_(scale.sum(0).clamp_(min=1e-12))


_MASK_RATIO = MASK_RATIO.with_(default=0.2, help="Fraction r of the highest scores that counts, over the whole model.")
_TAIL_CLIP = Number(
    name="tail_clip",
    default=0.01,
    help="Share of smallest and of largest |τ| that is clipped.",
    low=0,
    high=0.4,
    step=0.005,
)
_PASSES = 3  # two order statistics and the merge


@method(
    "pcb",
    title="PCB-Merging",
    paper="Du et al., NeurIPS 2024",
    summary="Weigh every change by how large it is in its model and how much the models agree on it.",
    parameters=[WEIGHT, LAMBDA, _MASK_RATIO, _TAIL_CLIP],
    prepare=prepare,
    passes=lambda values: _PASSES,
)
def merge(block: Block, values: Values, prepared: Prepared) -> torch.Tensor:
    """Return λ · Σ w_t τ̂_t ŝ_t / Σ ŝ_t with τ̂ clipped at its tails and ŝ the score floored and scaled to [0, 1]."""
    return balanced(block, prepared, values.each["weight"]) * values.shared["lambda"]


def check_search(context: Context, values: Values) -> None:
    """Check coefficients that a recipe brings, or that it names tasks to search them on."""
    check_coefficients(context, values, [MODEL])
    if searches(values) and not values.shared["tasks"]:
        raise context.wrong("parameters.tasks", "at least one task that `evaluate` accepts", "none")


def prepare_search(context: Context, values: Values) -> Prepared:
    """Search a λ_t per model by CMA-ES, from λ = 1, for the largest mean of the tasks' primary metrics.

    Only the order of the candidates' scores steers the search. The λ_t that is found is one of those that were scored,
    so the output scores what the report says, on these tasks never less than PCB-Merging at λ = 1.
    """
    prepared = prepare(context, values)
    if not searches(values):
        given = values.shared["coefficients"]
        return replace(found_coefficients(context, given), data=(prepared, given[MODEL]))
    evaluator = load_evaluator(context, values)
    candidate = candidate_of(context)

    def loss(coefficients: list[float], tick: Callable[[], None]) -> float:
        candidate.fill(lambda block: balanced(block, prepared, coefficients), tick)
        return -evaluator.objective(evaluator.scored(candidate.language_model, lambda *_: tick()).table)

    found = search(context, values, loss, low=0.0, high=_BOUND)
    told = {"objective": -found.value, "history": [-value for value in found.history]}
    told["run_dtype"] = candidate.language_model.run_dtype
    searched = found_coefficients(context, {MODEL: found.point}, **told)
    return replace(searched, data=(prepared, found.point))


@method(
    "pcb_es",
    title="PCB-Merging + ES",
    paper="Du et al., NeurIPS 2024",
    summary="PCB-Merging with a scale per model that an evolution strategy finds on tasks of yours.",
    parameters=[TASKS, LIMIT, RUN_CODE, EVALUATIONS, _MASK_RATIO, _TAIL_CLIP, COEFFICIENTS],
    results=[
        SCALES,
        Result("objective", "Mean score of the best candidate", "number"),
        Result("history", "Mean score of each candidate", "history"),
    ],
    check=check_search,
    prepare=prepare_search,
    passes=lambda values: _PASSES + searches(values) * values.shared["evaluations"],
    searches=searches,
    version=5,
)
def merge_searched(block: Block, values: Values, prepared: Prepared) -> torch.Tensor:
    """Return Σ λ_t τ̂_t ŝ_t / Σ ŝ_t (as `pcb`) with the λ_t that were found; the best candidate is what is written."""
    balance, coefficients = prepared.data
    return balanced(block, balance, coefficients)
