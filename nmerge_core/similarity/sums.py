"""Products over the weights of neurons, and what follows from them: turned how far, changed how much, and together."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nmerge_core.architecture import MlpLayer
from nmerge_core.checkpoints import Checkpoint
from nmerge_core.similarity.blocks import neuron_blocks

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """Products over the weights of a layer's neurons, float64; τ_t = θ_t − θ_0 is what one of T fine-tunes changed.

    Attributes:
        base: ‖θ_0‖², (neurons,).
        along: ⟨θ_0, τ_t⟩, (T, neurons).
        tuned: ‖θ_t‖², (T, neurons): of far smaller weights than the base's the others would leave rounding alone.
        squares: ‖τ_t‖², (T, neurons).
        products: ⟨τ_s, τ_t⟩ of every two, in the order of `itertools.combinations`, (pairs, neurons).
        both: how many weights both of two changed, (pairs, neurons).
        signs: of these, those that went the same way less those that went opposite ways, (pairs, neurons).
    """

    base: Tensor
    along: Tensor
    tuned: Tensor
    squares: Tensor
    products: Tensor
    both: Tensor
    signs: Tensor

    def plus(self, other: "Sums") -> "Sums":
        """Return the products over the weights of both."""
        return Sums(**{name: own + vars(other)[name] for name, own in vars(self).items()})

    @property
    def cosines(self) -> Numbers:
        """cos(θ_0, θ_t), (T, neurons); NaN for zero vectors."""
        # One root of the product, so that equal vectors have cosine 1 exactly; 0 / 0 is NaN.
        return ((self.base + self.along) / (self.base * self.tuned).sqrt()).clamp(-1, 1).numpy()

    @property
    def changes(self) -> Numbers:
        """‖τ_t‖ / ‖θ_0‖, (T, neurons); NaN where the base's is a zero vector."""
        return (self.squares / torch.where(self.base > 0, self.base, torch.nan)).sqrt().numpy()

    @property
    def parallel(self) -> Numbers:
        """‖τ∥‖² / ‖τ_t‖² with τ∥ the part of τ_t along θ_0, (T, neurons); 0 where θ_0 = 0, NaN where τ_t = 0."""
        whole = self.base * self.squares
        share = torch.where(whole > 0, (self.along * self.along / whole).clamp(max=1), 0.0)
        return torch.where(self.squares > 0, share, torch.nan).numpy()

    @property
    def between(self) -> Numbers:
        """cos(τ_s, τ_t), (pairs, neurons); NaN where either is a zero vector."""
        one, other = np.array([*combinations(range(len(self.squares)), 2)], int).reshape(-1, 2).T
        return (self.products / (self.squares[one] * self.squares[other]).sqrt()).clamp(-1, 1).numpy()

    @property
    def opposed(self) -> Numbers:
        """Of the weights that both changed, the share that went opposite ways, (pairs, neurons); NaN without any."""
        return ((self.both - self.signs) / (2 * self.both)).numpy()


def sums_of(checkpoints: Sequence[Checkpoint], layer: MlpLayer, matrix: str) -> Sums:
    """Return the products of one matrix of a layer, the first checkpoint being the base."""
    models = len(checkpoints) - 1
    pairs = [*combinations(range(models), 2)]
    base = torch.zeros(layer.d_ffn, dtype=torch.float64)
    along, tuned, squares = torch.zeros(3, models, layer.d_ffn, dtype=torch.float64)
    products, both, signs = torch.zeros(3, len(pairs), layer.d_ffn, dtype=torch.float64)
    for part in layer.maps:
        # Biases are no part of a neuron's vector.
        if part.matrix != matrix or not checkpoints[0].architecture.matrix(part.tensor).neuronal:
            continue
        for neurons, axis, (start, *weights) in neuron_blocks(checkpoints, part):
            changes = [each - start for each in weights]  # (rows, columns) each
            base[neurons] += (start * start).sum(axis)
            for index, (own, tau) in enumerate(zip(weights, changes, strict=True)):
                tuned[index, neurons] += (own * own).sum(axis)
                along[index, neurons] += (start * tau).sum(axis)
                squares[index, neurons] += (tau * tau).sum(axis)
            for index, (one, other) in enumerate(pairs):
                product = changes[one] * changes[other]  # (rows, columns)
                products[index, neurons] += product.sum(axis)
                signs[index, neurons] += product.sign_().sum(axis)
                both[index, neurons] += product.abs_().sum(axis)
    return Sums(base, along, tuned, squares, products, both, signs)
