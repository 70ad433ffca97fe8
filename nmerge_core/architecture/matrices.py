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

    def runs(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield where rows [start, stop) lie in the file: (first entry, number of entries) of each run of entries."""
        if not self.transposed:
            yield start * self.columns, (stop - start) * self.columns
            return
        for column in range(self.columns):
            yield column * self.rows + start, stop - start


def matrices(shapes: Mapping[str, Shape]) -> dict[str, Matrix]:
    """Say of every tensor how it is a matrix (NeuroMerging: row k of every 2-D weight is weight neuron k).

    - (out, in): as it is; an embedding has a row per token.
    - Conv1D: transposed.
    - Stacked experts (experts, out, in): a row per expert and output.
    - Convolutions (out, in, …): a row per output channel.
    - (1, 1, n), a vector with leading axes of 1: a point parameter; (1, rows, columns): the matrix.
    """
    conv1d = any(
        len(shape) == 2 and shape[0] != shape[1] and shapes.get(name.removesuffix("weight") + "bias") == shape[1:]
        for name, shape in shapes.items()
        if _CONV1D.search(name)
    )
    return {name: _matrix(name, shape, conv1d) for name, shape in shapes.items()}


def _matrix(name: str, shape: Shape, conv1d: bool) -> Matrix:
    while len(shape) > 2 and shape[0] == 1 and "expert" not in name:
        shape = shape[1:] if len(shape) > 3 or shape[1] > 1 else shape[2:]
    if len(shape) < 2:
        return Matrix(prod(shape), 1, neuronal=False)
    if conv1d and _CONV1D.search(name):
        return Matrix(shape[1], shape[0], transposed=True)
    if len(shape) == 3 and "expert" in name:
        return Matrix(shape[0] * shape[1], shape[2])
    return Matrix(shape[0], prod(shape[1:]))
