"""Weights as the bits that are stored: what compiled loops read and write, without torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nmerge_core.architecture import Matrix
from nmerge_core.checkpoints.header import TensorInfo
from nmerge_core.checkpoints.rows import read_into

if TYPE_CHECKING:
    import torch

RawBits = NDArray[Any]  # uint16, the bits of bfloat16, or uint32, those of float32
DTYPES = ("BF16", "F16", "F32")  # what is read and written so
_INFINITE = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000, "F64": 0x7FF0000000000000}  # +∞; NaNs are above


def read_bits(tensors: Sequence[TensorInfo], matrix: Matrix, start: int, stop: int) -> RawBits:
    """Read rows [start, stop) of tensors of `DTYPES` seen as `matrix`: (tensors, entries), row after row.

    Returns:
        bfloat16 where every tensor is, else float32.

    Raises:
        InputError: a file ended or vanished since its header was read.
    """
    count = (stop - start) * matrix.columns
    bits = np.empty((len(tensors), count), np.uint16 if {t.dtype for t in tensors} == {"BF16"} else np.uint32)
    for tensor, own in zip(tensors, bits, strict=True):
        values = np.empty(count, np.uint16) if tensor.dtype != "F32" and own.itemsize == 4 else own
        read_into(tensor, matrix.runs(start, stop), values.view(np.uint8).data)
        if tensor.dtype == "F16":
            own[:] = values.view(np.float16).astype(np.float32).view(np.uint32)
        elif values is not own:
            own[:] = values.astype(np.uint32) << 16
    if matrix.transposed:
        bits = bits.reshape(len(tensors), matrix.columns, -1).swapaxes(1, 2).reshape(bits.shape)
    return bits


def empty_bits(count: int, dtype: str) -> RawBits:
    """Return room for entries that will be stored in one of `DTYPES`: float32 where that is float16."""
    return np.empty(count, np.uint16 if dtype == "BF16" else np.uint32)


def as_stored(bits: RawBits, dtype: str) -> NDArray[Any]:
    """Return the bits in one of `DTYPES` of what was written to `empty_bits`."""
    if dtype != "F16":
        return bits
    with np.errstate(over="ignore"):  # becomes infinite, as in torch
        return bits.view(np.float32).astype(np.float16)


def all_finite(bits: NDArray[Any], dtype: str) -> bool:
    """Tell whether stored entries of a floating-point dtype are finite; entries of other dtypes are."""
    if dtype not in _INFINITE or not bits.size:
        return True
    words = bits.view(f"u{bits.itemsize}")
    infinite, magnitude = words.dtype.type(_INFINITE[dtype]), words.dtype.type((1 << 8 * bits.itemsize - 1) - 1)
    return bool((words & magnitude).max() < infinite)


def bits_of(values: "torch.Tensor") -> NDArray[Any]:
    """Return the bits of a tensor of any dtype, in its shape."""
    import torch

    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return values.cpu().view(kinds[values.element_size()]).numpy()
