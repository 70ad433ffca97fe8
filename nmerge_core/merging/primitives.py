"""What the methods are made of: pure tensor functions over the models' deltas, first axis the models (T)."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from nmerge_core.errors import InputError

MERGE_FUNCTIONS = ("elect_mean", "elect_sum", "mean", "sum")


def weighted_sum(deltas: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Return Σ w_t τ_t of deltas (T, …)."""
    total = deltas[0] * weights[0]
    for delta, weight in zip(deltas[1:], weights[1:], strict=True):
        total.add_(delta, alpha=weight)
    return total


def total_weight(weights: Sequence[float]) -> float:
    """Return Σ w_t to divide by; raises InputError where it is 0."""
    total = sum(weights)
    if not total:
        raise InputError(f"recipe, key 'weight': expected weights that do not sum to 0 with normalize, found {weights}")
    return total


def trim(deltas: torch.Tensor, thresholds: Sequence[float]) -> torch.Tensor:
    """Keep of each model's deltas (T, …) the entries of magnitude at least its threshold; the rest become 0."""
    kept = torch.empty_like(deltas)
    for delta, least, out in zip(deltas, thresholds, kept, strict=True):
        # hardshrink keeps what is beyond its bound, so the bound is the float just below.
        torch.hardshrink(delta, float(np.nextafter(np.float32(least), np.float32(0))), out=out)
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


def elected_sum(deltas: torch.Tensor, weights: Sequence[float], normalize: bool) -> torch.Tensor:
    """Return the sum of the weighted deltas that agree with the elected sign, over Σ |w| of those if `normalize`."""
    sign = weighted_sum(deltas, weights).sgn_()
    total, agreed = torch.zeros_like(sign), torch.zeros_like(sign)
    for delta, weight in zip(deltas, weights, strict=True):
        agreeing = (delta * weight).mul_(sign).clamp_(min=0)  # |w τ| where its sign is the elected one, else 0
        total.add_(agreeing)
        if normalize:
            agreed.add_(agreeing.ne_(0), alpha=abs(weight))
    total.mul_(sign)
    return total.div_(agreed.clamp_(min=torch.finfo(agreed.dtype).tiny)) if normalize else total


def kept_entries(entries: int, density: float) -> int:
    """Return ⌈density · entries⌉, at least 1; a density such as 0.1 means its decimal value, not its binary one."""
    return max(1, -int(-round(density * entries, 6) // 1))


def drop_mask(shape: torch.Size, first: int, density: float, *, seed: int, model: int, name: str) -> torch.Tensor:
    """Draw DARE's keep mask for entries first, first + 1, … of a tensor: float32, 1 with probability `density`, else 0.

    Entry i takes the i-th 32 random bits of a PCG64 stream seeded by (seed, model position, tensor name), so the mask
    does not depend on blocks, order or device.
    """
    digest = hashlib.sha256(f"{seed} {model} {name}".encode()).digest()
    stream = np.random.PCG64(int.from_bytes(digest, "little")).advance(first // 2)
    words = stream.random_raw(shape.numel() // 2 + 1)
    bits = words.astype("<u8", copy=False).view("<u4")[first % 2 :][: shape.numel()]
    return torch.from_numpy((bits < round(density * 2**32)).astype(np.float32)).view(shape)


def split_by_base(deltas: torch.Tensor, base: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split each weight neuron's deltas (T, rows, columns) along and across its base row (NeuroMerging Eq. 2).

    Returns the coordinates τ·ŵ0 (T, rows, 1), the direction ŵ0 (rows, columns) and the orthogonal part τ⊥
    (T, rows, columns). Where the base row is 0 so is ŵ0, and all is orthogonal.
    """
    norm = base.norm(dim=1, keepdim=True)  # (rows, 1)
    direction = base / torch.where(norm == 0, 1.0, norm)
    coordinates = (deltas * direction).sum(-1, keepdim=True)
    return coordinates, direction, deltas - coordinates * direction
