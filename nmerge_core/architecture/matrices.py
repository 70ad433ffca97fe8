"""How a stored tensor is a matrix with one weight neuron a row."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

Shape = tuple[int, ...]

# GPT-2's Conv1D modules store their weight as (in, out), unlike every other linear layer.
_CONV1D = re.compile(r"(?:^|\.)(?:c_attn|q_attn|c_fc|c_proj)\.weight$")


@dataclass(frozen=True)
class Matrix:
    """A tensor as (rows, columns), a weight neuron a row: (out, in) whatever the stored order of the axes.

    A point parameter (norm, bias, scalar; not `neuronal`) has as many rows as entries, of one column each.
    """

    rows: int
    columns: int
    neuronal: bool = True
    transposed: bool = False  # stored as (columns, rows)
    stack: int = 1  # matrices that lie one after the other, each transposed by itself

    def runs(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield where rows [start, stop) lie in the file: (first entry, number of entries) of each run of entries."""
        if not self.transposed:
            yield start * self.columns, (stop - start) * self.columns
            return
        height = self.rows // self.stack
        for column in range(self.columns):
            for index, rows in self.parts(start, stop):
                yield (index * self.columns + column) * height + rows.start, rows.stop - rows.start

    def across(self, height: int) -> "Matrix":
        """Return the same tensor seen by its columns: those of every `height` rows, one group after the other."""
        groups = self.rows // height
        return Matrix(groups * self.columns, height, transposed=not self.transposed, stack=groups)

    def parts(self, start: int, stop: int) -> Iterator[tuple[int, slice]]:
        """Yield which matrices of the stack rows [start, stop) belong to, and which rows of each they are."""
        height = self.rows // self.stack
        for index in range(start // height if height else 0, -(-stop // height) if height else 0):
            first = index * height
            yield index, slice(max(start - first, 0), min(stop - first, height))


# Experts in one tensor, (experts, out, in); one of their biases is (experts, out).
_STACK = re.compile(r"expert|(?:^|\.)(?:\w+_)?moe\.")


def of_experts(name: str) -> bool:
    """Whether a tensor is one of experts or of all of them, stacked, by its name."""
    return bool(_STACK.search(name))


def matrices(shapes: Mapping[str, Shape]) -> dict[str, Matrix]:
    """Say of every tensor how it is a matrix (NeuroMerging: row k of every 2-D weight is weight neuron k).

    - (out, in): as it is; an embedding has a row per token.
    - Conv1D: transposed.
    - Stacked experts (experts, out, in): a row per expert and output. Where the gate and up of all experts are stored
      (experts, in, out), both they and down are transposed (gpt-oss, Llama 4); biases of a stack are point parameters.
    - Convolutions (out, in, …): a row per output channel.
    - (1, 1, n), a vector with leading axes of 1: a point parameter; (1, rows, columns): the matrix.
    """
    conv1d = any(
        len(shape) == 2 and shape[0] != shape[1] and shapes.get(name.removesuffix("weight") + "bias") == shape[1:]
        for name, shape in shapes.items()
        if _CONV1D.search(name)
    )
    return {name: _matrix(name, shape, conv1d, _inputs_first(name, shapes)) for name, shape in shapes.items()}


def _inputs_first(name: str, shapes: Mapping[str, Shape]) -> bool:
    """Whether a stack is stored (experts, in, out): the fused gate and up beside it have twice as many columns so."""
    module = name.rpartition(".")[0]
    fused, down = shapes.get(f"{module}.gate_up_proj", ()), shapes.get(f"{module}.down_proj", ())
    return len(fused) == len(down) == 3 and fused == (down[0], down[2], 2 * down[1])


def _matrix(name: str, shape: Shape, conv1d: bool, inputs_first: bool) -> Matrix:
    stacked = of_experts(name)
    while len(shape) > 2 and shape[0] == 1 and not stacked:
        shape = shape[1:] if len(shape) > 3 or shape[1] > 1 else shape[2:]
    if stacked and len(shape) == 2 and name.endswith("_bias"):
        return Matrix(prod(shape), 1, neuronal=False)
    if len(shape) < 2:
        return Matrix(prod(shape), 1, neuronal=False)
    if conv1d and _CONV1D.search(name):
        return Matrix(shape[1], shape[0], transposed=True)
    if len(shape) == 3 and stacked:
        if inputs_first:
            return Matrix(shape[0] * shape[2], shape[1], transposed=True, stack=shape[0])
        return Matrix(shape[0] * shape[1], shape[2])
    return Matrix(shape[0], prod(shape[1:]))
