"""Sums over entries that say how far a merge and its models are from their base."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ModelSums:
    """What T models changed, summed over entries.

    Attributes:
        squares: ‖τ_t‖² of each model, (T,) float64.
        shared: entries that two models or more changed.
        opposed: those of them that some model raised and another lowered.
        chance: how many these would be if signs were tossed: Σ 1 − 2^(1 − k) over entries that k ≥ 2 models changed.
        absolute: Σ_t ‖τ_t‖₁.
        summed: ‖Σ_t τ_t‖₁.
    """

    squares: Tensor
    shared: int
    opposed: int
    chance: float
    absolute: float
    summed: float

    def __add__(self, other: "ModelSums") -> "ModelSums":
        """Sum over the entries of both."""
        return ModelSums(
            self.squares + other.squares,
            self.shared + other.shared,
            self.opposed + other.opposed,
            self.chance + other.chance,
            self.absolute + other.absolute,
            self.summed + other.summed,
        )


@dataclass(frozen=True)
class MergeSums:
    """What a merge changed, τ, summed over entries: `square` is ‖τ‖², `products` ⟨τ, τ_t⟩ with each model's, (T,)."""

    square: float
    products: Tensor

    def __add__(self, other: "MergeSums") -> "MergeSums":
        """Sum over the entries of both."""
        return MergeSums(self.square + other.square, self.products + other.products)


def model_sums(deltas: Tensor) -> ModelSums:
    """Sum over the entries of the models' changes, (T, n) float32."""
    signs = deltas.sign()  # (T, n)
    absolute = torch.linalg.vecdot(deltas, signs)  # (T,)
    net = signs.sum(0).abs_()  # (n,)
    changed = signs.abs_().sum(0)  # by how many models
    of_several = torch.bincount(changed.short(), minlength=2)[2:].tolist()  # entries that 2, 3, … models changed
    return ModelSums(
        squares=torch.linalg.vecdot(deltas, deltas).double().cpu(),
        shared=sum(of_several),
        opposed=int((net < changed).count_nonzero()),
        chance=sum(entries * (1 - 2.0 ** (1 - models)) for models, entries in enumerate(of_several, start=2)),
        absolute=float(absolute.sum()),
        summed=float(deltas.sum(0).abs_().sum()),
    )


def merge_sums(change: Tensor, deltas: Tensor) -> MergeSums:
    """Sum over the entries of a merge's change, (n,), and of the models' changes, (T, n), all float32."""
    return MergeSums(float(change @ change), (deltas @ change).double().cpu())
