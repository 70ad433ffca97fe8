"""What a safetensors file says of itself in its first bytes: names, dtypes, shapes and offsets."""

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

from nmerge_core.errors import InputError

# Bytes per element of the dtypes of the safetensors format that weights come in.
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
DTYPE_BYTES |= {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
# What torch, and so a configuration, calls them.
TORCH_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32"}
TORCH_NAMES |= {"I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}
TORCH_NAMES |= {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
FLOATS = ("F64", "F32", "F16", "BF16")
_MAX_HEADER = 100_000_000  # bytes; the safetensors reference implementation's own bound


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: `offset` is the position in the file of its first byte, rows are contiguous."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int

    @property
    def elements(self) -> int:
        """The number of entries."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """The size in bytes."""
        return self.elements * DTYPE_BYTES[self.dtype]

    @property
    def rows(self) -> int:
        """The length of the first axis; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

    @property
    def row_elements(self) -> int:
        """The number of entries of one row."""
        return prod(self.shape[1:])

    @property
    def files(self) -> frozenset[Path]:
        """The files that it is read from."""
        return frozenset({self.file})


@dataclass(frozen=True)
class Pieced(TensorInfo):
    """A tensor whose entries lie in several places: `pieces`, one after the other, all in its dtype."""

    pieces: tuple[TensorInfo, ...]

    @property
    def files(self) -> frozenset[Path]:
        """The files that it is read from."""
        return frozenset(piece.file for piece in self.pieces)


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Read the header of a safetensors file and check that the file holds every byte it promises.

    Raises:
        InputError: the file is missing, truncated, or not a safetensors file of known dtypes.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            head = stream.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else _MAX_HEADER
            if len(head) < 8 or length > min(size - 8, _MAX_HEADER):
                raise InputError(f"{file}: not a complete safetensors file ({size:,} bytes, its header does not fit)")
            entries = json.loads(stream.read(length))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{file}: its safetensors header is not JSON ({error}); fetch the file again") from error
    entries.pop("__metadata__", None)
    start = 8 + length
    tensors = {name: _tensor(name, entry, file, start) for name, entry in entries.items()}
    end = max((tensor.offset + tensor.bytes for tensor in tensors.values()), default=start)
    if size < end:
        raise InputError(
            f"{file}: truncated: expected {end:,} bytes by its header, found {size:,}; fetch the file again"
        )
    return tensors


def _tensor(name: str, entry: dict, file: Path, start: int) -> TensorInfo:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file}, tensor {name}: expected dtype, shape and data_offsets in the header") from error
    if dtype not in DTYPE_BYTES:
        raise InputError(
            f"{file}, tensor {name}: dtype {dtype} is not supported; expected one of {', '.join(DTYPE_BYTES)}"
        )
    tensor = TensorInfo(name, dtype, shape, file, start + begin)
    if tensor.bytes != end - begin:
        raise InputError(
            f"{file}, tensor {name}: {dtype} {list(shape)} needs {tensor.bytes:,} bytes, has {end - begin:,}"
        )
    return tensor
