"""What a safetensors file says of itself in its first bytes: names, dtypes, shapes and offsets."""

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from nmerge_core.checkpoints.json_file import is_count, parse_json
from nmerge_core.errors import InputError, short, shown

# Bytes per element of the dtypes of the safetensors format that weights come in.
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
DTYPE_BYTES |= {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
DTYPE_BYTES |= {"U64": 8, "U32": 4, "U16": 2, "F8_E8M0": 1}  # of quantised weights, and of their scales
# What torch, and so a configuration, calls them.
TORCH_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32"}
TORCH_NAMES |= {"I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}
TORCH_NAMES |= {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"}
TORCH_NAMES |= {"U64": "uint64", "U32": "uint32", "U16": "uint16"}
FLOATS = ("F64", "F32", "F16", "BF16")
_MAX_HEADER = 100_000_000  # bytes; the safetensors reference implementation's own bound
_MAX_AXES = 32
_LONGEST_NAME = 500


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
    def bytes_read(self) -> int:
        """The size of what is read where all of it is."""
        return self.bytes

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

    @property
    def parts(self) -> tuple["TensorInfo", ...]:
        """The tensors that it is put together from, itself where that is one."""
        return (self,)


@dataclass(frozen=True)
class Pieced(TensorInfo):
    """A tensor whose entries lie in several places: `pieces`, one after the other, all in its dtype."""

    pieces: tuple[TensorInfo, ...]

    @property
    def files(self) -> frozenset[Path]:
        """The files that it is read from."""
        return frozenset(file for piece in self.pieces for file in piece.files)

    @property
    def bytes_read(self) -> int:
        """The size of what is read where all of it is."""
        return sum(piece.bytes_read for piece in self.pieces)

    @property
    def parts(self) -> tuple[TensorInfo, ...]:
        """The tensors that it is put together from."""
        return self.pieces


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Read the header of a safetensors file and check that the file holds every byte it promises, and no other.

    Raises:
        InputError: the file is missing, truncated, or not a safetensors file of known dtypes.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            head = stream.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else _MAX_HEADER
            if len(head) < 8 or length > min(size - 8, _MAX_HEADER):
                raise InputError(
                    f"{file}: not a complete safetensors file ({size:,} bytes, its header does not fit); fetch it again"
                )
            text = stream.read(length)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    entries = parse_json(text, f"{file}, its safetensors header", _once)
    entries.pop("__metadata__", None)
    start = 8 + length
    tensors = {name: _tensor(name, entry, file, start) for name, entry in entries.items()}
    end = start
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.offset, tensor.bytes)):
        if tensor.offset != end:
            raise InputError(
                f"{file}, tensor {short(tensor.name)}: expected its bytes to begin at {end:,}, where those before it "
                f"end, found {tensor.offset:,}; fetch the file again"
            )
        end += tensor.bytes
    if size != end:
        what = "truncated: " if size < end else ""
        raise InputError(f"{file}: {what}expected {end:,} bytes by its header, found {size:,}; fetch the file again")
    return tensors


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs; raises ValueError where a key is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {shown(next(name for name in names if names.count(name) > 1))} is there twice")
    return found


def _tensor(name: str, entry: Any, file: Path, start: int) -> TensorInfo:
    where = f"{file}, tensor {short(name)}"
    given: dict[str, Any] = entry if isinstance(entry, dict) else {}
    dtype: Any = given.get("dtype")
    shape: Any = given.get("shape")
    offsets: Any = given.get("data_offsets")
    if not isinstance(dtype, str) or not _counts(shape) or len(shape) > _MAX_AXES or not _counts(offsets, 2):
        raise InputError(
            f"{where}: expected {{dtype, shape: [whole numbers], data_offsets: [first byte, end]}} in the header, "
            f"found {shown(entry)}"
        )
    if dtype not in DTYPE_BYTES:
        raise InputError(f"{where}: dtype {short(dtype)} is not supported; expected one of {', '.join(DTYPE_BYTES)}")
    begin, end = offsets
    tensor = TensorInfo(name, dtype, tuple(shape), file, start + begin)
    if tensor.bytes != end - begin:
        raise InputError(f"{where}: {dtype} {shown(shape)} needs {tensor.bytes:,} bytes, has {end - begin:,}")
    if len(name) > _LONGEST_NAME or not _is_text(name):
        raise InputError(f"{where}: expected a text of at most {_LONGEST_NAME} characters as its name")
    return tensor


def _is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8: JSON can tell of half a character."""
    try:
        return bool(name.encode()) or not name
    except UnicodeEncodeError:
        return False


def _counts(value: Any, number: int | None = None) -> bool:
    """Whether a value is a list of whole numbers from 0, of that number of them."""
    return isinstance(value, list) and number in (None, len(value)) and all(is_count(each, 2**63) for each in value)
