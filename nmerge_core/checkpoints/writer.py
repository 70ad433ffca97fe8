"""Writing a merged checkpoint: every offset is known before the first weight."""

import json
import os
import shutil
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.checkpoints.header import DTYPE_BYTES, TensorInfo
from nmerge_core.errors import InputError

SHARD_BYTES = 5_000_000_000  # the Hub's customary largest shard
# What travels from the model whose tokenizer the merge has: what goes by its tokens' ids.
_COMPANIONS: tuple[str, ...] = ("generation_config.json", "chat_template*", "*tokenizer*", "special_tokens_map.json")
_COMPANIONS += ("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt")


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


def plan_layout(folder: Path, tensors: Iterable[TensorInfo], dtype: str | None) -> Layout:
    """Lay tensors out in shards of at most 5 GB in their given order; `dtype` (a safetensors name) or each its own."""
    shards: list[list[tuple[TensorInfo, str]]] = [[]]
    size = 0
    for tensor in tensors:
        kind = dtype or tensor.dtype
        needed = tensor.elements * DTYPE_BYTES[kind]
        if shards[-1] and size + needed > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append((tensor, kind))
        size += needed
    placed: dict[str, TensorInfo] = {}
    headers, sizes = {}, {}
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        position = 0
        for tensor, kind in shard:
            end = position + tensor.elements * DTYPE_BYTES[kind]
            header[tensor.name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [position, end]}
            position = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        file, start = folder / name, 8 + len(text)
        headers[file] = struct.pack("<Q", len(text)) + text
        sizes[file] = start + position
        for tensor, kind in shard:
            begin = header[tensor.name]["data_offsets"][0]
            placed[tensor.name] = TensorInfo(tensor.name, kind, tensor.shape, file, start + int(begin))
    return Layout(placed, headers, sizes)


def create_files(layout: Layout) -> None:
    """Write each file's header and set its length."""
    for file, header in layout.headers.items():
        with file.open("wb") as stream:
            stream.write(header)
            stream.truncate(layout.sizes[file])


def write_at(tensor: TensorInfo, row: int, content: bytes | memoryview) -> None:
    """Write rows of a tensor, beginning at `row`, at their place in its file."""
    descriptor = os.open(tensor.file, os.O_WRONLY)
    try:
        offset = tensor.offset + row * tensor.row_elements * DTYPE_BYTES[tensor.dtype]
        view = memoryview(content)
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written
    finally:
        os.close(descriptor)


def write_companions(
    folder: Path, config: Mapping[str, Any], tokenizer: Checkpoint, layout: Layout, dtype: str | None
) -> None:
    """Write config.json and the index, and copy the tokenizer and the generation settings of one model."""
    config = dict(config)
    if dtype:
        config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for pattern in _COMPANIONS:
        for file in tokenizer.folder.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
            else:
                shutil.copytree(file, folder / file.name, dirs_exist_ok=True)
    if len(layout.headers) > 1:
        weight_map = {name: tensor.file.name for name, tensor in layout.tensors.items()}
        total = sum(tensor.bytes for tensor in layout.tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


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
