"""Reading a part of one tensor from its file, by positioned reads: no mapped pages pile up in resident memory."""

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING

from nmerge_core.checkpoints.computed import Computed
from nmerge_core.checkpoints.header import DTYPE_BYTES, TORCH_NAMES, Pieced, TensorInfo
from nmerge_core.errors import InputError

if TYPE_CHECKING:
    import torch


def read_rows(tensor: TensorInfo, start: int = 0, stop: int | None = None) -> "torch.Tensor":
    """Read rows [start, stop) of a tensor in its own dtype; a scalar is one row.

    Raises:
        InputError: the file ended or vanished since its header was read.
    """
    stop = tensor.rows if stop is None else stop
    shape = (stop - start, *tensor.shape[1:]) if tensor.shape else ()
    return read_runs(tensor, [(start * tensor.row_elements, (stop - start) * tensor.row_elements)]).view(shape)


def read_columns(tensor: TensorInfo, start: int, stop: int) -> "torch.Tensor":
    """Read columns [start, stop) of a matrix of few rows in its own dtype, (rows, stop − start).

    Raises:
        InputError: as `read_rows`.
    """
    runs = [(row * tensor.row_elements + start, stop - start) for row in range(tensor.rows)]
    return read_runs(tensor, runs).view(tensor.rows, stop - start)


def read_runs(tensor: TensorInfo, runs: Iterable[tuple[int, int]]) -> "torch.Tensor":
    """Read runs of entries (first, number) of a tensor, one after the other, in its own dtype.

    Raises:
        InputError: as `read_rows`.
    """
    import torch

    runs = list(runs)
    values = torch.empty(sum(count for _, count in runs), dtype=torch_dtype(tensor.dtype))
    read_into(tensor, runs, values.view(torch.uint8).numpy().data)
    return values


@cache
def torch_dtype(name: str) -> "torch.dtype":
    """Translate a safetensors dtype name."""
    import torch

    return getattr(torch, TORCH_NAMES[name])


def read_into(tensor: TensorInfo, runs: Iterable[tuple[int, int]], buffer: memoryview) -> None:
    """Fill `buffer` with the bytes of runs of entries (first, number) of a tensor.

    Raises:
        InputError: as `read_rows`.
    """
    for part, own in _parts(tensor, runs):
        buffer = part.fill(own, buffer) if isinstance(part, Computed) else _fill(part, own, buffer)


def _parts(tensor: TensorInfo, runs: Iterable[tuple[int, int]]) -> Iterator[tuple[TensorInfo, list[tuple[int, int]]]]:
    """Say of which stored tensors which runs are read, in order."""
    if not isinstance(tensor, Pieced):
        yield tensor, list(runs)
        return
    starts = list(accumulate((piece.elements for piece in tensor.pieces), initial=0))
    for first, count in runs:
        index = bisect_right(starts, first) - 1
        while count:
            inside = first - starts[index]
            taken = min(count, tensor.pieces[index].elements - inside)
            yield tensor.pieces[index], [(inside, taken)]
            first, count, index = first + taken, count - taken, index + 1


def _fill(tensor: TensorInfo, runs: Iterable[tuple[int, int]], buffer: memoryview) -> memoryview:
    """Fill the start of `buffer` with the bytes of runs of a tensor of one file; return the rest of it."""
    size = DTYPE_BYTES[tensor.dtype]
    try:
        descriptor = os.open(tensor.file, os.O_RDONLY)
    except OSError as error:
        raise InputError(
            f"{tensor.file}: cannot be read ({error.strerror}); was it moved while it was in use?"
        ) from error
    try:
        for first, count in runs:
            offset, length = tensor.offset + first * size, count * size
            while length:
                got = os.preadv(descriptor, [buffer[:length]], offset)
                if got == 0:
                    raise InputError(f"{tensor.file}: ended before byte {offset:,}; it was complete when it was opened")
                buffer, offset, length = buffer[got:], offset + got, length - got
    finally:
        os.close(descriptor)
    return buffer
