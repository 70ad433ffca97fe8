"""Weigh each entry by how much its task cares for it and how much the tasks agree (parameter competition balancing)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nmerge_core.merging.block import Block
from nmerge_core.merging.context import Context, Facts
from nmerge_core.merging.parameters import LAMBDA, WEIGHT
from nmerge_core.merging.registry import Parameter, Values, method


@dataclass(frozen=True)
class Range:
    """The least and largest value, over the whole model, that one model's entries are clipped to."""

    low: float
    high: float

    def scaled(self, values: torch.Tensor) -> torch.Tensor:
        """Clip values to the range and map it to [0, 1]."""
        width = self.high - self.low
        return (values.clamp(self.low, self.high) - self.low) / width if width else torch.zeros_like(values)


def prepare(context: Context, values: Values) -> Facts:
    """Find each model's tails of |τ| and of its scores: exact whole-model order statistics, streamed."""
    count, entries = len(context.recipe.models), context.entries
    clip, ratio = values.shared["tail_clip"], values.shared["mask_ratio"]
    # The authors' indices into the ascending order; rank 1 is the largest of all.
    tails = [entries - int(entries * clip), entries - int(entries * (1 - clip) - 1)]
    found = context.order_statistics(lambda block: block.deltas.abs(), [tails] * count, "Magnitudes")
    magnitudes = [Range(*(each.value for each in order.ranked)) for order in found]
    floor = [entries - int(entries * (1 - ratio)), 1]
    found = context.order_statistics(lambda block: score(block, magnitudes), [floor] * count, "Scores")
    return Facts((magnitudes, [Range(*(each.value for each in order.ranked)) for order in found]))


def score(block: Block, magnitudes: Sequence[Range]) -> torch.Tensor:
    """Return exp(T·minmax(|τ|)²) · tanh(τ_t · Σ_s τ_s): intra-balancing times inter-balancing, (T, …)."""
    scaled = [each.scaled(delta.abs()) for delta, each in zip(block.deltas, magnitudes, strict=True)]
    intra = (torch.stack(scaled).square_() * len(magnitudes)).exp_()
    return intra * torch.tanh(block.deltas * block.deltas.sum(0))


@method(
    "pcb",
    title="PCB-Merging",
    paper="Du et al., NeurIPS 2024",
    summary="Weigh every change by how large it is in its model and how much the models agree on it.",
    parameters=[
        WEIGHT,
        LAMBDA,
        Parameter(
            "mask_ratio",
            "float",
            0.2,
            "Fraction r of the highest scores that counts, over the whole model.",
            0,
            1,
            0.01,
            above_low=True,
        ),
        Parameter("tail_clip", "float", 0.01, "Share of smallest and of largest |τ| that is clipped.", 0, 0.4, 0.005),
    ],
    prepare=prepare,
    passes=lambda values: 3,
)
def merge(block: Block, values: Values, facts: Facts) -> torch.Tensor:
    """Return λ · Σ w_t τ̂_t ŝ_t / Σ ŝ_t with τ̂ clipped at its tails and ŝ the score floored and scaled to [0, 1]."""
    magnitudes, scores = facts.data
    weights = values.each["weight"]
    scale = [each.scaled(own) for own, each in zip(score(block, magnitudes), scores, strict=True)]
    total = torch.zeros_like(block.base)
    for delta, own, tail, weight in zip(block.deltas, scale, magnitudes, weights, strict=True):
        total.add_(delta.sign() * delta.abs().clamp(tail.low, tail.high) * own, alpha=weight)
    return total / torch.stack(scale).sum(0).clamp(min=1e-12) * values.shared["lambda"]
