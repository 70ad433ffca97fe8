"""Where the tensors of a file of `torch.save` lie: a zip archive of their bytes, and a pickle that describes them.

The pickle goes through the unpickler of `torch.load(weights_only=True)` alone, which makes tensors and plain containers
of it and calls nothing else, on the meta device, which reads no weight.
"""

import io
import json
import re
import shlex
import struct
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from nmerge_core.checkpoints.header import DTYPE_BYTES, TensorInfo, read_header
from nmerge_core.checkpoints.rows import torch_dtype
from nmerge_core.errors import InputError, short, shown

PICKLED = ".bin"  # the suffix of transformers' and PEFT's pickled weights
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"  # how a zip archive starts, and a pickle, torch.save's format before 1.6
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip record: its mark, the lengths of the two fields that follow

_ALONE = "save the weights alone, by their names"


def reader(file: Path) -> Callable[[Path], dict[str, TensorInfo]]:
    """Return what reads the tensors' places from a weight file of this name."""
    return read_pickled if file.suffix == PICKLED else read_header


def read_pickled(file: Path) -> dict[str, TensorInfo]:
    """Read the names, dtypes, shapes and offsets of a file that `torch.save` wrote; no weight is read, no code is run.

    Tensors that are one and the same in memory have the same offset.

    Raises:
        InputError: the file is missing, truncated, compressed or of the old format; it holds anything but a mapping of
            names to tensors; or a tensor's bytes do not lie in a row of their own.
    """
    content, places = _records(file)
    sizes = dict(places.values())
    tensors = {name: _tensor(name, value, file, sizes) for name, value in _described(file, content, places).items()}
    _check_apart(tensors.values())
    return tensors


def _records(file: Path) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """Return the pickle, and by its key the offset of each storage's first byte and its size."""
    places = {}
    try:
        with file.open("rb") as stream:
            if (start := stream.read(4))[:1] == _PICKLE:
                raise InputError(f"{file}: expected a zip archive, found the format before PyTorch 1.6; {_again(file)}")
            if start != _ZIP:
                raise BadZipFile
            with ZipFile(stream) as archive:
                names = archive.namelist()
                folder = names[0].partition("/")[0] if names else ""  # the first record's: torch looks in no other
                if f"{folder}/data.pkl" not in names or len(set(names)) < len(names):
                    raise InputError(
                        f"{file}: expected a pickle of tensors alone, found an archive without a data.pkl, or with two "
                        "records of one name; fetch it again"
                    )
                for record in archive.infolist():
                    if record.compress_type != ZIP_STORED or record.compress_size != record.file_size:
                        raise InputError(
                            f"{file}: expected tensors as torch.save stores them, found {record.filename} compressed; "
                            f"{_again(file)}"
                        )
                    if record.filename.endswith("/byteorder") and archive.read(record) != b"little":
                        raise InputError(f"{file}: expected little-endian tensors, found others; {_again(file)}")
                    places[record.filename] = (_begin(stream, record), record.file_size)
                content = archive.read(f"{folder}/data.pkl")
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    except (BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        size = file.stat().st_size
        raise InputError(f"{file}: not a complete file of torch.save ({size:,} bytes); fetch it again") from error
    storages = f"{folder}/data/"
    return content, {name.removeprefix(storages): at for name, at in places.items() if name.startswith(storages)}


def _begin(stream: BinaryIO, record: ZipInfo) -> int:
    """Return the offset of a record's first byte: its own header's length is not in the archive's directory."""
    stream.seek(record.header_offset)
    mark, *lengths = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
    if mark != _ZIP:
        raise BadZipFile
    return record.header_offset + _LOCAL_HEADER.size + sum(lengths)


def _described(file: Path, content: bytes, places: Mapping[str, tuple[int, int]]) -> dict[Any, Any]:
    """Return the tensors on the meta device; each storage has its place in the file as `_checkpoint_offset`.

    `torch.load` would do so too, but it takes the storages to lie in the order in which the pickle first names them.
    """
    import torch
    from torch._weights_only_unpickler import Unpickler

    def storage(saved: Any) -> torch.storage.TypedStorage:
        _, kind, key, _, elements = saved
        dtype = torch.uint8 if kind is torch.UntypedStorage else kind.dtype
        made = torch.UntypedStorage(elements * dtype.itemsize, device="meta")
        made._checkpoint_offset = places[key][0] if key in places else None
        return torch.storage.TypedStorage(wrap_storage=made, dtype=dtype, _internal=True)

    unpickler = Unpickler(io.BytesIO(content), encoding="utf-8")
    unpickler.persistent_load = storage  # type: ignore[method-assign]  # as pickle lets one give it
    try:
        found = unpickler.load()
    except Exception as error:  # a pickle can ask for anything, so anything can go wrong
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = (str(error) or type(error).__name__).split(". ")[0].split("\n")[0]
        raise InputError(
            f"{file}: expected a pickle of tensors alone, found {asked[1] if asked else f'something else ({reason})'}; "
            "it is read with weights_only and never run, as it could do anything; fetch the model as safetensors"
        ) from error
    if not isinstance(found, dict):
        raise InputError(f"{file}: expected a mapping of names to tensors, found {type(found).__name__}; {_ALONE}")
    return found


def _tensor(name: Any, value: Any, file: Path, sizes: dict[int, int]) -> TensorInfo:
    import torch

    where = f"{file}, tensor {short(str(name))}"
    if not isinstance(name, str) or type(value) not in (torch.Tensor, torch.nn.Parameter):
        found = f"{type(value).__name__} under {shown(name)}"
        raise InputError(f"{where}: expected a mapping of names to tensors, found {found}; {_ALONE}")
    dtype = next((each for each in DTYPE_BYTES if torch_dtype(each) == value.dtype), None)
    if dtype is None or value.layout is not torch.strided:
        found = str(value.dtype if dtype is None else value.layout).removeprefix("torch.")
        raise InputError(f"{where}: {found} is not supported; expected one of {', '.join(DTYPE_BYTES)}, not sparse")
    if not value.is_contiguous() or value.is_neg():
        raise InputError(f"{where}: expected its values in a row, found a view with strides; {_again(file)}")
    storage = value.untyped_storage()
    start = getattr(storage, "_checkpoint_offset", None) or 0
    tensor = TensorInfo(name, dtype, tuple(value.shape), file, start + value.storage_offset() * value.itemsize)
    end = min(start + sizes.get(start, 0), file.stat().st_size)
    if tensor.bytes and tensor.offset + tensor.bytes > end:
        raise InputError(
            f"{where}: expected {tensor.bytes:,} bytes at {tensor.offset:,}, found none or fewer; {_again(file)}"
        )
    return tensor


def _check_apart(tensors: Iterable[TensorInfo]) -> None:
    placed = sorted((tensor for tensor in tensors if tensor.elements), key=lambda tensor: tensor.offset)
    for one, other in pairwise(placed):
        same = (one.offset, one.dtype, one.shape) == (other.offset, other.dtype, other.shape)
        if one.offset + one.bytes > other.offset and not same:
            raise InputError(
                f"{one.file}, tensor {other.name}: expected values of its own, found a view that shares some with "
                f"{one.name}; {_again(one.file)}"
            )


def _again(file: Path) -> str:
    """Say how to write a file's tensors anew, each on its own, without running its pickle."""
    new = file.with_name(f"new{PICKLED}")
    program = (
        f"import torch; found = torch.load({json.dumps(str(file))}, weights_only=True); torch.save({{name: each.clone("
        f"memory_format=torch.contiguous_format) for name, each in found.items()}}, {json.dumps(str(new))})"
    )
    return f"save it again and put {new.name} in its place: python -c {shlex.quote(program)}"
