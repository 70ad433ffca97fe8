"""What the methods are made of: pure tensor functions over the models' deltas, first axis the models (T)."""

import hashlib
from collections.abc import Sequence

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
    return torch.stack([delta * (delta.abs() >= least) for delta, least in zip(deltas, thresholds, strict=True)])


def elect(values: torch.Tensor) -> torch.Tensor:
    """Keep of values (T, …) those that agree with the sign of their sum over the models (TIES, step 2)."""
    return values * (values * values.sum(0) > 0)


def combine(values: torch.Tensor, merge_function: str = "elect_mean") -> torch.Tensor:
    """Apply ψ across the models: (T, …) → (…); elect or not, then sum, or mean over the nonzero entries.

    The mean counts nonzero entries only, elected or not, as the authors of TIES and NeuroMerging do (Table 5).
    """
    kept = elect(values) if merge_function.startswith("elect") else values
    total = kept.sum(0)
    return total if merge_function.endswith("sum") else total / (kept != 0).sum(0).clamp(min=1)


def elected_sum(deltas: torch.Tensor, weights: Sequence[float], normalize: bool) -> torch.Tensor:
    """Return the sum of the weighted deltas that agree with the elected sign, over Σ |w| of those if `normalize`."""
    scale = torch.tensor(weights, dtype=deltas.dtype, device=deltas.device).view(-1, *[1] * (deltas.dim() - 1))
    kept = elect(deltas * scale)
    total = kept.sum(0)
    if not normalize:
        return total
    weight = ((kept != 0) * scale.abs()).sum(0)
    return total / torch.where(weight == 0, 1.0, weight)


def kept_entries(entries: int, density: float) -> int:
    """Return ⌈density · entries⌉, at least 1; a density such as 0.1 means its decimal value, not its binary one."""
    return max(1, -int(-round(density * entries, 6) // 1))


def drop_mask(shape: torch.Size, first: int, density: float, *, seed: int, model: int, name: str) -> torch.Tensor:
    """Draw DARE's keep mask for entries first, first + 1, … of a tensor: True with probability `density`.

    A hash of (seed, model position, tensor name, entry), so that the mask does not depend on blocks, order or device.
    """
    digest = hashlib.sha256(f"{seed} {model} {name}".encode()).digest()
    key_low, key_high = (int.from_bytes(digest[i : i + 4], "little", signed=True) for i in (0, 4))
    entries = torch.arange(first, first + shape.numel(), dtype=torch.int64)
    bits = _mix(entries.to(torch.int32) ^ key_low)
    bits = _mix(bits ^ (entries >> 32).to(torch.int32) ^ key_high)
    return ((bits & 0x7FFFFFFF) < round(density * 2**31)).view(shape)


def _mix(bits: torch.Tensor) -> torch.Tensor:
    """Mix 32-bit integers (Wellons' lowbias32, with logical shifts)."""
    bits = bits ^ ((bits >> 16) & 0xFFFF)
    bits = bits * 0x7FEB352D
    bits = bits ^ ((bits >> 15) & 0x1FFFF)
    bits = bits * (0x846CA68B - (1 << 32))
    return bits ^ ((bits >> 16) & 0xFFFF)


def split_by_base(deltas: torch.Tensor, base: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split each weight neuron's deltas (T, rows, columns) along and across its base row (NeuroMerging Eq. 2).

    Returns the coordinates τ·ŵ0 (T, rows, 1), the direction ŵ0 (rows, columns) and the orthogonal part τ⊥
    (T, rows, columns). Where the base row is 0 so is ŵ0, and all is orthogonal.
    """
    norm = base.norm(dim=1, keepdim=True)  # (rows, 1)
    direction = base / torch.where(norm == 0, 1.0, norm)
    coordinates = (deltas * direction).sum(-1, keepdim=True)
    return coordinates, direction, deltas - coordinates * direction
