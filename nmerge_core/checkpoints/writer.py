"""Writing a merged checkpoint: every offset is known before the first weight."""

import ctypes
import errno
import json
import os
import shutil
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmerge_core.architecture import Matrix
from nmerge_core.architecture.config_keys import OWN_CODE
from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.checkpoints.companions import copy_companions
from nmerge_core.checkpoints.header import DTYPE_BYTES, FLOATS, TensorInfo
from nmerge_core.checkpoints.json_file import read_json, write_json
from nmerge_core.checkpoints.written_config import configurations, written_config
from nmerge_core.errors import InputError

_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
_BEGIN = 2  # SYNC_FILE_RANGE_WRITE
_AT_ONCE = 16 << 20
SHARD_BYTES = 5_000_000_000  # the Hub's customary largest shard


@dataclass(frozen=True)
class Layout:
    """Where every output tensor will lie; `headers` holds the first bytes of each file."""

    tensors: Mapping[str, TensorInfo]
    headers: Mapping[Path, bytes]
    sizes: Mapping[Path, int]

    @property
    def bytes(self) -> int:
        """The size of all weight files."""
        return sum(self.sizes.values())

    @property
    def without_files(self) -> "Layout":
        """The same tensors, of which none will be written."""
        return replace(self, headers={}, sizes={})


def plan_layout(folder: Path, tensors: Iterable[TensorInfo], dtype: str | None) -> Layout:
    """Lay tensors out in their order in shards of at most 5 GB; floats in `dtype` (a safetensors name) if given."""
    shards: list[list[tuple[TensorInfo, str]]] = [[]]
    size = 0
    for tensor in tensors:
        kind = dtype if dtype and tensor.dtype in FLOATS else tensor.dtype
        needed = tensor.elements * DTYPE_BYTES[kind]
        if shards[-1] and size + needed > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append((tensor, kind))
        size += needed
    parts = []
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        parts.append(plan_file(folder / name, [replace(tensor, dtype=kind) for tensor, kind in shard]))
    return Layout(
        {name: tensor for part in parts for name, tensor in part.tensors.items()},
        {file: header for part in parts for file, header in part.headers.items()},
        {file: size for part in parts for file, size in part.sizes.items()},
    )


def plan_file(file: Path, tensors: Iterable[TensorInfo]) -> Layout:
    """Lay tensors out in one file, one after the other in their given order, each in its dtype."""
    ends: dict[str, tuple[TensorInfo, int]] = {}
    position = 0
    for tensor in tensors:
        position += tensor.bytes
        ends[tensor.name] = (tensor, position)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, (tensor, end) in ends.items():
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [end - tensor.bytes, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    placed = {
        name: TensorInfo(name, tensor.dtype, tensor.shape, file, start + end - tensor.bytes)
        for name, (tensor, end) in ends.items()
    }
    return Layout(placed, {file: struct.pack("<Q", len(text)) + text}, {file: start + position})


def create_files(layout: Layout) -> None:
    """Write each file's header and take all the space that it will need, so that a full disk shows before the work."""
    for file, header in layout.headers.items():
        with file.open("wb") as stream:
            stream.write(header)
            stream.truncate(layout.sizes[file])
            stream.flush()
            try:
                os.posix_fallocate(stream.fileno(), 0, layout.sizes[file])
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # file systems that cannot reserve space
                    raise


def write_matrix(tensor: TensorInfo, matrix: Matrix, start: int, values: NDArray[Any]) -> None:
    """Write rows of a tensor seen as a `Matrix` from row `start` on in its file; `values` as `raw_bits.bits_of`."""
    rows = values.reshape(-1, matrix.columns)
    view = np.ascontiguousarray(rows.T if matrix.transposed else rows).view(np.uint8).reshape(-1).data
    size = DTYPE_BYTES[tensor.dtype]
    descriptor = os.open(tensor.file, os.O_WRONLY)
    try:
        for first, count in matrix.runs(start, start + len(rows)):
            offset, length = tensor.offset + first * size, count * size
            while length:
                written = os.pwrite(descriptor, view[:length], offset)
                view, offset, length = view[written:], offset + written, length - written
        if not matrix.transposed:  # else every block has a part of each page of the tensor
            _begin_flushing(descriptor, tensor.offset + start * matrix.columns * size, rows.nbytes)
    finally:
        os.close(descriptor)


def _begin_flushing(descriptor: int, offset: int, length: int) -> None:
    """Have Linux begin to write what was written to a file: a flush at the end then has little left to wait for.

    Once a piece of `_AT_ONCE` bytes is left behind all of it goes to the disk together.
    """
    first, after = offset // _AT_ONCE, (offset + length) // _AT_ONCE
    if _sync_file_range and first < after:
        place, size = ctypes.c_int64(first * _AT_ONCE), ctypes.c_int64((after - first) * _AT_ONCE)
        _sync_file_range(descriptor, place, size, _BEGIN)


def write_companions(folder: Path, config: Mapping[str, Any], tokenizer: Checkpoint, layout: Layout) -> None:
    """Write config.json and the index, and copy the tokenizer and the generation settings of one model."""
    copy_companions(tokenizer.folder, folder)
    for file in configurations(folder):
        write_json(file, {key: value for key, value in read_json(file, "").items() if key != OWN_CODE})
    write_json(folder / "config.json", written_config(config, layout.tensors))
    write_index(folder, layout)


def write_index(folder: Path, layout: Layout) -> None:
    """Write which tensor is in which file, where there are several."""
    if len(layout.headers) > 1:
        weight_map = {name: tensor.file.name for name, tensor in layout.tensors.items()}
        total = sum(tensor.bytes for tensor in layout.tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index)


def check_target(out: Path, needed: int) -> None:
    """Check that a folder can be made at `out` with `needed` bytes.

    Raises:
        InputError: it exists, its parent cannot be written, or the disk has too little room.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; expected a new folder, name another or remove it")
    parent = existing_parent(out)
    if not os.access(parent, os.W_OK):
        raise InputError(f"{out}: cannot be made, no permission to write in {parent}")
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise InputError(f"{out}: needs {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free on that disk; make room")


def existing_parent(path: Path) -> Path:
    """Return the nearest folder above `path` that exists."""
    return next(parent for parent in path.absolute().parents if parent.is_dir())
