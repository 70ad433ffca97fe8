"""Merge each linear layer into the one that comes closest to what every model's layer gives on its own texts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from nmerge_core.errors import InputError
from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.compute.entrywise import total_weight
from nmerge_core.merging.compute.primitives import weighted_sum
from nmerge_core.merging.compute.stream import Stream
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.plan.measured import check_statistics, prepared_by, shared_grams, statistics_of
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import Needs, method
from nmerge_core.merging.recipe.shared_parameters import MEASURED, MEASURED_TEXTS, SHARE
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters import Number

if TYPE_CHECKING:
    from nmerge_core.calibration import Statistics

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


def _read_system(
    found: Sequence[Statistics], device: str, scale: float, gram: str, weights: tuple[float, ...]
) -> System:
    # Divided by the tokens, so that a task with longer texts counts no more.
    inputs = found[0].tensors.info(gram).rows
    read = torch.empty(len(found), inputs, inputs, dtype=torch.float64, device=device)
    for matrix, own in zip(read, found, strict=True):
        matrix.copy_(own.tensors.read(gram)).div_(own.tokens)
    return system(read, weights, scale)


def check(context: Context, values: Values) -> None:
    """Check that there is something to measure on."""
    context.check_total(values)
    check_statistics(context, values, "gram")


def prepare(context: Context, values: Values) -> Prepared:
    """Find each model's Gram matrices, and the linear layers whose texts leave directions of the input unseen."""
    found = statistics_of(context, values, "gram")
    make = partial(_read_system, found, context.stream.device, values.shared["scale"])
    systems, grams = Recent(make), shared_grams(found)
    warnings: dict[tuple, str] = {}
    for done, name in enumerate(context.names):
        context.progress("Input correlations", done, len(context.names), "tensors")
        if name not in grams:
            continue
        weights = context.values_of(name, values).each["weight"]
        if (grams[name], weights) not in warnings:
            unseen = systems(grams[name], weights).unseen
            warnings[grams[name], weights] = (
                f"{name}: its texts do not tell in {unseen:,} directions of its input; there it is the average"
                if unseen
                else ""
            )
    # Factored again while merging, where a block has one thread, so that no bit depends on the number of threads.
    shown = [warning for warning in warnings.values() if warning]
    return prepared_by(context, values, found, (Recent(make), grams), shown + _averaged(context, grams))


def _averaged(context: Context, grams: Collection[str]) -> list[str]:
    """Say, in no or one sentence, which matrices in layers have no Gram matrix."""
    architecture = context.stream.donor.architecture
    inside = [name for name in context.names if architecture.layer_of(name) is not None]
    inside = [name for name in inside if architecture.matrix(name).neuronal]
    averaged = [name for name in inside if name not in grams]
    said = f"{len(averaged):,} of {len(inside):,} matrices in layers are averaged plainly"
    why = "what routed experts and routers read is not measured"
    return [f"{said}, {averaged[0]} the first: {why}"] if averaged else []


def needs(stream: Stream, values: Values) -> Needs:
    """Count, over the layers' matrices (out, in), in memory: T + 2 of the largest float64 in² and a float32 one.

    Operations: T products and two triangular solves of each matrix, two factorisations (in³ / 3) of each input, of
    which a layer has four.
    """
    donor, models = stream.donor, len(stream.models)
    inside = [each.shape for name, each in donor.tensors.items() if donor.architecture.layer_of(name) is not None]
    matrices = [shape for shape in inside if len(shape) > 1]
    largest, d_model = max(shape[-1] for shape in matrices), donor.architecture.d_model
    solved = sum(shape[0] * shape[-1] ** 2 * (2 * models + 2) for shape in matrices)
    factored = len(donor.architecture.layers) * 2 / 3 * (largest**3 + 3 * d_model**3)
    return Needs(largest**2 * (8 * (models + 2) + 4), solved + factored)


@method(
    "regmean",
    title="RegMean",
    paper="Jin et al., ICLR 2023",
    summary="Merge each linear layer by regression: closest to what each model's layer gives on its own texts.",
    parameters=[
        SHARE,
        Number(
            name="scale",
            default=0.9,
            help="Factor of the Gram matrices' off-diagonal entries; 1: plain regression.",
            low=0,
            high=1,
            step=0.05,
        ),
        *MEASURED,
    ],
    results=[MEASURED_TEXTS],
    check=check,
    prepare=prepare,
    base="unused",
    solves=lambda values: None in values.each["statistics"],
    needs=needs,
    version=2,
)
def merge(block: Block, values: Values, prepared: Prepared) -> torch.Tensor:
    """Return W = (Σ w_t W_t G̃_t)(Σ w_t G̃_t)⁻¹ of a linear layer W (out, in), the weighted average of all else.

    G̃ is the model's mean of x xᵀ over tokens, as in the authors' code (the paper's is the sum, which favours longer
    texts), off-diagonal entries times `scale`. Computed as the average W̄ plus
    (Σ w_t (W_t − W̄) G̃_t)(Σ w_t G̃_t)⁻¹, the same where the sum is regular; where it is singular this takes, among the
    best W, one that is near the average rather than near zero: the paper leaves it open.
    """
    systems, grams = prepared.data
    weights = values.each["weight"]
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
