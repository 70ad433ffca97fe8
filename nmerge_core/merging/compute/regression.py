"""The linear layer that comes closest to what several give on their own inputs, by the Gram matrices of these."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock

import numpy as np

from nmerge_core.errors import InputError
from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.compute.entrywise import total_weight
from nmerge_core.merging.compute.primitives import weighted_sum

# Of the smallest to the largest eigenvalue of Σ G scaled to unit diagonal: below it is what rounding to float32 leaves.
_SINGULAR = float(np.finfo(np.float32).eps)
_KEPT = 2  # systems in memory: consecutive tensors alternate between two inputs (k | o | q and v)


@dataclass(frozen=True)
class System:
    """S = Σ_t w_t G_t, scaled to unit diagonal and factored: all float64.

    Attributes:
        grams: (T, inputs, inputs), each w_t G_t with its off-diagonal entries scaled.
        scale: (inputs,), 1 / √S_ii; 0 where an input is always 0.
        regular: whether the scaled S has a Cholesky factor.
        factor: (inputs, inputs), the lower one, or the pseudo-inverse of the scaled S.
        unseen: the number of directions of the input in which the texts tell nothing.
    """

    grams: torch.Tensor
    scale: torch.Tensor
    regular: bool
    factor: torch.Tensor
    unseen: int

    def solve(self, right: torch.Tensor) -> torch.Tensor:
        """Return X of least norm (of X scaled as S is) with X S = right, (rows, inputs)."""
        scaled = right * self.scale
        solved = torch.cholesky_solve(scaled.T, self.factor).T if self.regular else scaled @ self.factor
        return solved * self.scale


def always_regular(scale: float, inputs: int) -> bool:
    """Whether any S of so many inputs has a Cholesky factor, whatever the texts.

    Scaled to unit diagonal it is (1 − scale) I + scale R, R a sum of x xᵀ, so that no eigenvalue is below 1 − scale.
    Its norm, which `system` holds the least pivot against, is at most the number of inputs.
    """
    return 1 - scale > _SINGULAR * inputs


def system(grams: torch.Tensor, weights: Sequence[float], scale: float) -> System:
    """Factor S = Σ_t w_t G̃_t of grams (T, inputs, inputs) float64, which become w_t G̃_t in place.

    G̃ is G with its off-diagonal entries times `scale`.
    """
    grams *= torch.tensor(weights, dtype=grams.dtype, device=grams.device).view(-1, 1, 1)
    diagonals = grams.diagonal(dim1=1, dim2=2).clone()  # (T, inputs)
    grams *= scale
    grams.diagonal(dim1=1, dim2=2).copy_(diagonals)
    total = grams.sum(0)  # S, (inputs, inputs)
    root = total.diagonal().clamp(min=0).sqrt()
    inverse_root = torch.where(root > 0, 1 / root, 0.0)
    total *= inverse_root * inverse_root[:, None]
    total.diagonal().fill_(1.0)
    silent = int((root == 0).sum())
    cholesky, failed = torch.linalg.cholesky_ex(total)
    if not failed and cholesky.diagonal().min() ** 2 > _SINGULAR * total.norm():
        return System(grams, inverse_root, True, cholesky, silent)
    values, vectors = torch.linalg.eigh(total)  # ascending
    seen = values > _SINGULAR * values[-1]
    inverse = (vectors[:, seen] / values[seen]) @ vectors[:, seen].T
    return System(grams, inverse_root, False, inverse, silent + int((~seen).sum()))


class Recent:
    """The last results of a function, each computed once even where several threads ask at the same moment."""

    def __init__(self, function: Callable[..., System]) -> None:
        """Start with none."""
        self._function = function
        self._results: OrderedDict[Hashable, Future[System]] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[Recent], tuple[Callable[..., System]]]:
        """Travel between processes without what was computed."""
        return Recent, (self._function,)

    def __call__(self, *key: Hashable) -> System:
        """Return the result for `key`."""
        with self._lock:
            own = key not in self._results
            result = self._results.setdefault(key, Future())
            self._results.move_to_end(key)
            while len(self._results) > _KEPT:
                self._results.popitem(last=False)
        if own:
            try:
                result.set_result(self._function(*key))
            except BaseException as error:
                result.set_exception(error)
        return result.result()


def regress(
    block: Block,
    weights: tuple[float, ...],
    systems: Callable[[str, tuple[float, ...]], System],
    grams: Mapping[str, str],
) -> torch.Tensor:
    """Return W̄ + (Σ w_t (W_t − W̄) G̃_t)(Σ w_t G̃_t)⁻¹ of a linear layer, the weighted average W̄ of all else.

    Args:
        block: of the weights themselves.
        weights: of the models.
        systems: gives the system of a Gram matrix by its name.
        grams: the name of the Gram matrix of each weight that has one.

    Raises:
        InputError: a weight does not have as many columns as its Gram matrix.
    """
    mean = weighted_sum(block.deltas, weights) / total_weight(weights)
    if block.name not in grams:
        return mean
    regression = systems(grams[block.name], weights)
    inputs = regression.grams.shape[-1]
    if block.deltas.shape[-1] != inputs:
        raise InputError(
            f"tensor {block.name}: expected {inputs:,} columns, as many as its Gram matrix has, found "
            f"{block.deltas.shape[-1]:,}; collect the statistics again"
        )
    right = ((block.deltas - mean).double() @ regression.grams).sum(0)  # (rows, inputs)
    return mean + regression.solve(right).float()
