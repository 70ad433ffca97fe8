"""Reading a part of one tensor from its file, by positioned reads: no mapped pages pile up in resident memory."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from nmerge_core.checkpoints.header import DTYPE_BYTES, TensorInfo
from nmerge_core.errors import InputError

if TYPE_CHECKING:
    import torch


def read_rows(tensor: TensorInfo, start: int = 0, stop: int | None = None) -> "torch.Tensor":
    """Read rows [start, stop) of a tensor in its own dtype; a scalar is one row.

    Raises:
        InputError: the file ended or vanished since its header was read.
    """
    import torch

    stop = tensor.rows if stop is None else stop
    row_bytes = tensor.row_elements * DTYPE_BYTES[tensor.dtype]
    buffer = bytearray((stop - start) * row_bytes)
    _read_into(tensor.file, tensor.offset + start * row_bytes, memoryview(buffer))
    shape = (stop - start, *tensor.shape[1:]) if tensor.shape else ()
    if not buffer:
        return torch.empty(shape, dtype=torch_dtype(tensor.dtype))
    return torch.frombuffer(buffer, dtype=torch_dtype(tensor.dtype)).view(shape)


def read_columns(tensor: TensorInfo, start: int, stop: int) -> "torch.Tensor":
    """Read columns [start, stop) of a matrix of few rows in its own dtype, (rows, stop − start).

    Raises:
        InputError: the file ended or vanished since its header was read.
    """
    import torch

    size = DTYPE_BYTES[tensor.dtype]
    rows, columns = tensor.shape
    width = (stop - start) * size
    buffer = bytearray(rows * width)
    for row in range(rows):
        part = memoryview(buffer)[row * width : (row + 1) * width]
        _read_into(tensor.file, tensor.offset + (row * columns + start) * size, part)
    return torch.frombuffer(buffer, dtype=torch_dtype(tensor.dtype)).view(rows, stop - start)


def torch_dtype(name: str) -> "torch.dtype":
    """Translate a safetensors dtype name."""
    import torch

    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32"}
    names |= {"I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}
    names |= {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
    return getattr(torch, names[name])


def _read_into(file: Path, offset: int, buffer: memoryview) -> None:
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); was it moved while it was in use?") from error
    try:
        filled = 0
        while filled < len(buffer):
            got = os.preadv(descriptor, [buffer[filled:]], offset + filled)
            if got == 0:
                raise InputError(f"{file}: ended before byte {offset + filled:,}; it was complete when it was opened")
            filled += got
    finally:
        os.close(descriptor)
