"""What the methods are made of: pure tensor functions over the models' deltas, first axis the models (T)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.drop import GAMMA, LAST_SHIFT, MIX, Drop


def weighted_sum(deltas: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Return Σ w_t τ_t of deltas (T, …), each product rounded before it is added."""
    total = torch.zeros_like(deltas[0])
    for delta, weight in zip(deltas, weights, strict=True):
        total.add_(delta * weight)
    return total


def divided(values: torch.Tensor, divisor: float) -> torch.Tensor:
    """Return values / divisor rounded once; a GPU would multiply by the inverse of a plain number."""
    return values if divisor == 1 else values / torch.tensor(divisor, dtype=values.dtype, device=values.device)


def trim(deltas: torch.Tensor, thresholds: Sequence[float]) -> torch.Tensor:
    """Keep of each model's deltas (T, …) the entries of magnitude at least its threshold; the rest become 0."""
    kept = torch.empty_like(deltas)
    for delta, least, out in zip(deltas, thresholds, kept, strict=True):
        # hardshrink keeps what is beyond its bound, so the bound is the float just below.
        torch.hardshrink(delta, float(np.nextafter(np.float32(least), np.float32(0))), out=out)
    return kept


def cut(deltas: torch.Tensor, ceilings: Sequence[float]) -> torch.Tensor:
    """Keep of each model's deltas (T, …) the entries of magnitude below its ceiling; the rest become 0."""
    kept = torch.empty_like(deltas)
    for delta, ceiling, out in zip(deltas, ceilings, kept, strict=True):
        torch.mul(delta, delta.abs() < ceiling, out=out)
    return kept


def elect(values: torch.Tensor) -> torch.Tensor:
    """Keep of values (T, …) those that agree with the sign of their sum over the models (TIES, step 2)."""
    sign = values.sum(0).sgn_()
    return (values * sign).clamp_(min=0).mul_(sign)


def combine(values: torch.Tensor, merge_function: str = "elect_mean") -> torch.Tensor:
    """Apply ψ across the models: (T, …) → (…); elect or not, then sum, or mean over the nonzero entries.

    The mean counts nonzero entries only, elected or not, as the authors of TIES and NeuroMerging do (Table 5).
    """
    kept = elect(values) if merge_function.startswith("elect") else values.clone()
    total = kept.sum(0)
    return total if merge_function.endswith("sum") else total / kept.ne_(0).sum(0).clamp_(min=1)


def elected_sum(
    deltas: torch.Tensor, weights: Sequence[float], normalize: bool, votes: Sequence[float] | None = None
) -> torch.Tensor:
    """Return the sum of the weighted deltas that agree with the elected sign, over Σ |w| of those if `normalize`.

    The sign is that of the sum weighted by `votes`, where there are some, else by `weights`.
    """
    sign = weighted_sum(deltas, votes or weights).sgn_()
    total, agreed = torch.zeros_like(sign), torch.zeros_like(sign)
    for delta, weight in zip(deltas, weights, strict=True):
        agreeing = (delta * weight).mul_(sign).clamp_(min=0)  # |w τ| where its sign is the elected one, else 0
        total.add_(agreeing)
        if normalize:
            agreed.add_(agreeing.ne_(0).mul_(abs(weight)))
    total.mul_(sign)
    return total.div_(torch.where(agreed > 0, agreed, 1.0)) if normalize else total


def variance(deltas: torch.Tensor) -> torch.Tensor:
    """Return the variance over the models of each entry of deltas (T, …): the mean square about the mean."""
    equal, count = (1.0,) * len(deltas), float(len(deltas))
    mean = divided(weighted_sum(deltas, equal), count)
    return divided(weighted_sum((deltas - mean).square_(), equal), count)


def drop(deltas: torch.Tensor, rule: Drop, name: str, first: int) -> torch.Tensor:
    """Drop entries of deltas (T, …), the entries first, first + 1, … of a tensor, and rescale the rest."""
    kept = torch.zeros_like(deltas)
    models = zip(deltas, rule.states(name), rule.limits, rule.scales, kept, strict=True)
    for delta, state, limit, scale, out in models:
        drawn = random_bits(int(state), first, delta.numel(), delta.device).view(delta.shape)
        out.copy_(torch.where(drawn < int(limit), delta * float(scale), 0.0))
    return kept


def random_bits(state: int, first: int, count: int, device: torch.device) -> torch.Tensor:
    """Return the upper 32 bits of the numbers first, first + 1, … of a SplitMix64 generator: (count,) int64."""
    z = torch.arange(first + 1, first + count + 1, device=device) * _signed(GAMMA) + _signed(state)
    for shift, factor in MIX:
        z = (z ^ _shifted(z, shift)) * _signed(factor)
    return _shifted(z ^ _shifted(z, LAST_SHIFT), 32)


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def _shifted(values: torch.Tensor, places: int) -> torch.Tensor:
    """Shift int64 to the right as if it had no sign."""
    return (values >> places) & ((1 << (64 - places)) - 1)


def split_by_base(deltas: torch.Tensor, base: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split each weight neuron's deltas (T, rows, columns) along and across its base row (NeuroMerging Eq. 2).

    Returns the coordinates τ·ŵ0 (T, rows, 1), the direction ŵ0 (rows, columns) and the orthogonal part τ⊥
    (T, rows, columns). Where the base row is 0 so is ŵ0, and all is orthogonal.
    """
    norm = base.norm(dim=1, keepdim=True)  # (rows, 1)
    direction = base / torch.where(norm == 0, 1.0, norm)
    coordinates = (deltas * direction).sum(-1, keepdim=True)
    return coordinates, direction, deltas - coordinates * direction
