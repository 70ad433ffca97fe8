"""What the rules have in common that merge a whole matrix by its singular values: which matrices, and at what cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from nmerge_core.lazy import torch
from nmerge_core.machine import cores
from nmerge_core.merging.compute.block import Block, Place, place_of
from nmerge_core.merging.compute.stream import Stream
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import Needs
from nmerge_core.merging.recipe.shared_parameters import LAMBDA, WEIGHT
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.values import Choice, Flag

MLP, LAYERS = "mlp", "layers"
MATRICES = Choice(
    name="matrices",
    default=LAYERS,
    help="The matrices that are merged by their singular values: all of the layers, or the MLPs' alone, which takes "
    "less time; the layers' others get the mean change.",
    choices=(LAYERS, MLP),
)
EMBEDDINGS = Flag(
    name="include_embeddings",
    help="Merge embeddings and head by their singular values too; else they stay the base's.",
)
SPECTRAL = (WEIGHT, LAMBDA, MATRICES, EMBEDDINGS)
# Operations of a symmetric eigenproblem of side n with its vectors, by n³.
_EIGEN = 9.0

Rule: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"  # as text: torch is imported when it is used
"""Merges the deltas of one matrix, (T, rows, columns) float64, of which none is zero, to (rows, columns)."""


def prepare(context: Context, values: Values) -> Prepared:
    """Find the tensors that are stacks of matrices, each of which is merged by itself."""
    matrix = context.stream.donor.architecture.matrix
    return Prepared({name: stack for name in context.names if (stack := matrix(name).stack) > 1})


def merge_matrices(block: Block, values: Values, prepared: Prepared, rule: Rule) -> torch.Tensor:
    """Return λ times what `rule` makes of the weighted deltas of each matrix, and λ · mean τ_t of 1-D tensors.

    Models that changed nothing in a matrix do not count there.
    """
    if block.neuronal and block.layer is None and not values.shared["include_embeddings"]:
        return torch.zeros_like(block.base)
    weights = torch.tensor(values.each["weight"], device=block.deltas.device)
    deltas = block.deltas * weights[:, None, None]
    scale = values.shared["lambda"]
    if not is_decomposed(block, values):
        return scale * deltas.mean(0)
    merged = torch.zeros_like(block.base)
    for rows, own in changed_matrices(block.name, deltas, prepared):
        merged[rows] = rule(own) * scale
    return merged


def is_decomposed(place: Block | Place, values: Values) -> bool:
    """Tell whether the parameters `matrices` and `include_embeddings` say that a tensor's singular values count."""
    if place.layer is None:
        return place.neuronal and bool(values.shared["include_embeddings"])
    return place.neuronal and (place.submodule == MLP or values.shared["matrices"] == LAYERS)


def changed_matrices(name: str, deltas: torch.Tensor, prepared: Prepared) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the rows of each matrix of a whole tensor that any model changed, and the deltas of those that did.

    The deltas are (T, rows, columns), as float64.
    """
    height = deltas.shape[1] // prepared.data.get(name, 1)
    for first in range(0, deltas.shape[1], height):
        rows = slice(first, first + height)
        own = deltas[:, rows].double()
        own = own[own.flatten(1).any(1)]
        if len(own):
            yield rows, own


@dataclass(frozen=True)
class Work:
    """What a rule does with one matrix (rows, columns): how many eigenproblems of a side it solves, and what beside.

    Its matrix products take `products` · rows · columns · side operations, two for each multiplication with its sum; it
    holds so many copies of the matrix in float64 at once.
    """

    side: int
    problems: int
    products: int
    copies: int


def needs_of(work: Callable[[int, int, int], Work]) -> Callable[[Stream, Values], Needs]:
    """Return what counts the memory and operations of a rule by its `work(models, rows, columns)` with a matrix."""

    def needs(stream: Stream, values: Values) -> Needs:
        architecture, models = stream.donor.architecture, len(stream.models)
        operations, memory = 0.0, 0
        for name in stream.donor.tensors:
            matrix = architecture.matrix(name)
            if not is_decomposed(place_of(architecture, name), values):
                continue
            rows, columns = matrix.rows // matrix.stack, matrix.columns
            own = work(models, rows, columns)
            solved = _EIGEN * own.problems * float(own.side) ** 3
            operations += matrix.stack * (solved + float(own.products) * rows * columns * own.side)
            memory = max(memory, 8 * own.copies * rows * columns)
        return Needs(memory * cores(), operations)  # each core has a matrix of its own

    return needs
