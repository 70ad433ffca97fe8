"""Merge inside and across each weight neuron's base direction (NeuroMerging, EMNLP 2025)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from nmerge_core.checkpoints.raw_bits import RawBits
from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block, Entries
from nmerge_core.merging.compute.neurons import merge_by_factors, products, products_of_rows
from nmerge_core.merging.compute.primitives import combine, trim
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.recipe.prepared import Prepared, Result
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.shared_parameters import LAMBDA_1, LAMBDA_2, MASK_RATIO, MERGE_FUNCTION
from nmerge_core.merging.recipe.values import Values

# Components of a unit singular vector below this are rounding of the Gram matrix: the task is absent in that direction.
_ABSENT = 1e-6
# A change whose squared length across the base is below this share of the whole lies along it, but for rounding.
_ALONG = 1e-13


@dataclass(frozen=True)
class Split:
    """What is known of rows whatever λ1 and λ2 are, each (rows, …) in float64.

    `shares` (T) are those of each task's change in the merge of the parts across, `across` is what they bring along the
    base with them and `along` is the merge of the parts along it, both in units of the base row.
    """

    shares: torch.Tensor
    across: torch.Tensor
    along: torch.Tensor

    def factors(self, lambda_1: float, lambda_2: float) -> torch.Tensor:
        """Return what the base row and each task's change are multiplied by, (rows, 1 + T) float32."""
        of_base = lambda_1 * self.along - lambda_2 * self.across
        return torch.cat([of_base.unsqueeze(1), lambda_2 * self.shares], dim=1).float()


@dataclass(frozen=True)
class Neurons:
    """λ1·(∥ part) + λ2·(⊥ part) of the masked changes of weight neurons.

    With the SVD U S Vᵀ of a row's τ⊥ (T, columns), task t has the coordinate U_ti S_i along v_i, ψ merges them, and
    Σ_i ψ(U_·i S_i) v_i rebuilds the row (§3.4). As v_i = Σ_t τ⊥_t U_ti / S_i and ψ scales with its argument, that is
    Σ_t s_t τ⊥_t with s_t = Σ_i ψ(U_·i) U_ti: the eigenvectors U of the T × T Gram matrix of τ⊥ are all that is needed,
    and as τ⊥_t = τ_t − c_t w/‖w‖ the row is a sum of the masked τ_t and of the base row w, by factors that the scalar
    products of these give. On a GPU the products are summed in another order than on a CPU.
    """

    thresholds: Sequence[float]
    lambda_1: float
    lambda_2: float
    merge_function: str

    @property
    def _question(self) -> Hashable:
        return ("neuromerging", tuple(self.thresholds), self.merge_function)

    def merge(self, block: Block) -> torch.Tensor:
        """Return the merged delta of a block, (rows, columns) float32."""
        masked = trim(block.deltas, self.thresholds)  # (T, rows, columns)

        def split() -> Split:
            return self._split(products_of_rows(torch.cat([block.base.unsqueeze(0), masked])))

        factors = block.once(self._question, split).factors(self.lambda_1, self.lambda_2)
        total = torch.zeros_like(block.base)
        for delta, factor in zip([*masked, block.base], [*factors.T[1:], factors.T[0]], strict=True):
            total.add_(delta * factor.unsqueeze(1))
        return total

    def merge_entries(self, entries: Entries, merged: RawBits) -> bool:
        """Write merged entries to `merged` (n,); return whether all that was read is finite."""
        thresholds = np.array(self.thresholds, np.float32)

        def split() -> Split | None:
            sources, length = entries.stored.shape
            found = np.empty((length // entries.columns, sources, sources))
            if not products(entries.stored, True, entries.columns, thresholds, found):
                return None
            return self._split(torch.from_numpy(found))

        known = entries.once(self._question, split)
        if known is None:
            return False
        factors = known.factors(self.lambda_1, self.lambda_2).numpy()
        return bool(merge_by_factors(entries.stored, entries.columns, thresholds, factors, merged))

    def _split(self, found: torch.Tensor) -> Split:
        """Split changes by the scalar products of w, τ_1, … τ_T (rows, 1 + T, 1 + T) float64."""
        square, with_base, gram = found[:, 0, 0], found[:, 1:, 0], found[:, 1:, 1:]  # (rows,), (rows, T), (rows, T, T)
        units = with_base / torch.where(square == 0, 1.0, square).unsqueeze(1)  # τ∥ in units of w; no direction, none
        gram = gram - units.unsqueeze(2) * with_base.unsqueeze(1)  # of τ⊥
        whole = found.diagonal(dim1=1, dim2=2)[:, 1:]
        present = gram.diagonal(dim1=1, dim2=2) > _ALONG * whole  # (rows, T)
        _, vectors = torch.linalg.eigh(gram)  # columns i of (rows, T, T) are U_·i
        vectors = torch.where((vectors.abs() > _ABSENT) & present.unsqueeze(-1), vectors, 0.0)
        coordinates = combine(vectors.transpose(0, 1), self.merge_function)  # ψ over tasks per direction: (rows, i)
        shares = (vectors @ coordinates.unsqueeze(-1)).squeeze(-1)
        return Split(shares, (shares * units).sum(1), combine(units.T, self.merge_function))


def prepare(context: Context, values: Values) -> Prepared:
    """Find each model's mask threshold and σ, and from them λ2 = 1 / (1 − max σ) where it is auto (§3.4).

    The threshold is the (⌈r·d⌉ + 1)-th largest magnitude: the authors' code keeps d − ⌊(1 − r)·d⌋ + 1 entries.
    """
    found = context.magnitudes([values.shared["mask_ratio"]] * len(context.stream.models), extra=1)
    sigma = [each.sigma for each in found]
    lambda_2 = values.shared["lambda_2"]
    if lambda_2 == "auto":
        lambda_2 = 1 / (1 - max(sigma))
    return Prepared(
        ([each.threshold for each in found], lambda_2),
        solved={"lambda_2": lambda_2},
        report={"lambda_2": lambda_2, "sigma": dict(zip(context.labels, sigma, strict=True))},
    )


def neurons(name: str, values: Values, prepared: Prepared) -> Neurons:
    """Return how weight neurons are merged."""
    thresholds, lambda_2 = prepared.data
    return Neurons(thresholds, values.shared["lambda_1"], lambda_2, values.shared["merge_function"])


@method(
    "neuromerging",
    title="NeuroMerging",
    paper="NeuroMerging, EMNLP 2025",
    summary="Split each neuron's change into a part along its base weights and a part across; merge the parts apart.",
    when="Without texts, neuron by neuron, with a scale that is found from the models: level with task arithmetic "
    "on the demo family, too far where fine-tunes moved far.",
    parameters=[MASK_RATIO, LAMBDA_1, LAMBDA_2, MERGE_FUNCTION],
    version=2,
    results=[
        Result("lambda_2", "λ2", "number", "Scale of the change across a neuron's base weights"),
        Result("sigma", "σ", "models", "Share of each model's change, by its L1 norm, that the mask leaves out"),
    ],
    prepare=prepare,
    passes=lambda values: 3,
    rows=neurons,
)
def merge(block: Block, values: Values, prepared: Prepared) -> torch.Tensor:
    """Return λ1·(∥ part) + λ2·(⊥ part) per row of a 2-D weight, λ2·ψ of the masked deltas of a 1-D tensor (Alg. 1)."""
    if block.neuronal:
        return neurons(block.name, values, prepared).merge(block)
    thresholds, lambda_2 = prepared.data
    return combine(trim(block.deltas, thresholds), values.shared["merge_function"]) * lambda_2
