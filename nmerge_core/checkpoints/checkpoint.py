"""A model folder opened from its headers alone; weights are read by rows when asked for."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmerge_core.architecture import Architecture, derive, towers
from nmerge_core.checkpoints.header import DTYPE_BYTES, TensorInfo, read_header
from nmerge_core.checkpoints.reference import resolve
from nmerge_core.errors import InputError

if TYPE_CHECKING:
    import torch

# What a model shares with its embeddings where these are tied; some fine-tunes store a copy of it all the same.
_TIED_HEAD = "lm_head.weight"
_TIED_EMBEDDINGS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # T5's, of `shared`
# Masks, positions and rotary frequencies that older versions of transformers stored: not parameters, and not loaded.
_BUFFER = re.compile(r"(?:^|\.)(?:attn\.masked_bias|position_ids|rotary_emb\.inv_freq)$")
_EMBEDDINGS = re.compile(r"(?:^|\.)(?:embed_tokens|wte|shared)\.weight$")
_CAUSAL_MASK = re.compile(r"(?:^|\.)attn\.bias$")
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's configuration and its tensors in file order; no weight is held."""

    reference: str
    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    @cached_property
    def architecture(self) -> Architecture:
        """The neurons of this model; raises InputError naming the model where the family is not known."""
        try:
            return derive(self.config, {name: tensor.shape for name, tensor in self.tensors.items()})
        except InputError as error:
            raise InputError(f"{self.reference}: {error}") from None

    @property
    def parameters(self) -> int:
        """The number of weights, a tied tensor counted once."""
        return sum(tensor.elements for tensor in self.tensors.values())

    @property
    def bytes(self) -> int:
        """The size of all weights in bytes."""
        return sum(tensor.bytes for tensor in self.tensors.values())

    @property
    def files(self) -> list[Path]:
        """The weight files, in order of name."""
        return sorted({tensor.file for tensor in self.tensors.values()})

    def read(self, name: str, start: int = 0, stop: int | None = None) -> "torch.Tensor":
        """Read rows [start, stop) of a tensor in the checkpoint's own dtype, by a positioned read (no mapped pages).

        Raises:
            InputError: the tensor is not there, or its file ended or vanished since the headers were read.
        """
        tensor = self.info(name)
        stop = tensor.rows if stop is None else stop
        run = (start * tensor.row_elements, (stop - start) * tensor.row_elements)
        shape = (stop - start, *tensor.shape[1:]) if tensor.shape else ()
        return _read_runs(tensor, [run]).view(shape)

    def read_matrix(self, name: str, start: int, stop: int) -> "torch.Tensor":
        """Read rows [start, stop) of a tensor seen as a `Matrix`, (rows, columns), in the checkpoint's own dtype.

        Raises:
            InputError: as `read`.
        """
        tensor, matrix = self.info(name), self.architecture.matrix(name)
        values = _read_runs(tensor, matrix.runs(start, stop))
        if matrix.transposed:
            return values.view(matrix.columns, stop - start).T.contiguous()  # (rows, columns)
        return values.view(stop - start, matrix.columns)

    def named_like(self, base: "Checkpoint") -> "Checkpoint":
        """Return the checkpoint with its tensors under the base's names, where only a prefix differs.

        A model that was saved with its head has the name of its body before every other tensor's (`transformer.h.0…`),
        one that was saved without has not (`h.0…`).
        """
        ours, theirs = min(towers(self.tensors), default=""), min(towers(base.tensors), default="")
        if ours.endswith(f".{theirs}"):
            prefix = ours.removesuffix(theirs)
            return replace(self, tensors={name.removeprefix(prefix): t for name, t in self.tensors.items()})
        if theirs.endswith(f".{ours}"):
            prefix = theirs.removesuffix(ours)
            named = {name if name in base.tensors else f"{prefix}{name}": t for name, t in self.tensors.items()}
            return replace(self, tensors=named)
        return self

    def info(self, name: str) -> TensorInfo:
        """Return where a tensor lies; raises InputError where the checkpoint has none of that name."""
        if name not in self.tensors:
            raise InputError(f"{self.reference}: no tensor '{name}'")
        return self.tensors[name]


def _read_runs(tensor: TensorInfo, runs: Iterable[tuple[int, int]]) -> "torch.Tensor":
    """Read runs of entries (first, number), one after the other, in the tensor's own dtype."""
    import torch

    size = DTYPE_BYTES[tensor.dtype]
    places = [(tensor.offset + first * size, count * size) for first, count in runs]
    values = torch.empty(sum(length for _, length in places) // size, dtype=torch_dtype(tensor.dtype))
    _read_into(tensor.file, places, values.view(torch.uint8).numpy().data)
    return values


def _read_into(file: Path, places: Iterable[tuple[int, int]], buffer: memoryview) -> None:
    """Fill `buffer` from places (offset, length) of a file; raises InputError where the file ended or vanished."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); was it moved while it was in use?") from error
    try:
        for offset, length in places:
            while length:
                got = os.preadv(descriptor, [buffer[:length]], offset)
                if got == 0:
                    raise InputError(f"{file}: ended before byte {offset:,}; it was complete when it was opened")
                buffer, offset, length = buffer[got:], offset + got, length - got
    finally:
        os.close(descriptor)


def torch_dtype(name: str) -> "torch.dtype":
    """Translate a safetensors dtype name."""
    import torch

    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32"}
    names |= {"I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}
    names |= {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
    return getattr(torch, names[name])


def open_checkpoint(reference: str) -> Checkpoint:
    """Open a model folder or Hub id from its headers (well under a second, whatever its size).

    Raises:
        InputError: no such model, a file of it is missing, truncated or unreadable, or it has no safetensors.
    """
    folder = resolve(reference)
    config = _read_json(folder / "config.json", "a Hugging Face model folder has one")
    tensors: dict[str, TensorInfo] = {}
    for file in _weight_files(folder):
        for name, tensor in read_header(file).items():
            if name in tensors:
                raise InputError(f"{file}: tensor {name} is also in {tensors[name].file.name}; expected it once")
            tensors[name] = tensor
    return Checkpoint(reference, folder, config, _parameters(config, tensors))


def _parameters(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Leave out what is no parameter of its own: buffers, and copies of tied embeddings."""
    copies = set(_TIED_EMBEDDINGS) if "shared.weight" in tensors else set()
    if config.get("tie_word_embeddings") and any(_EMBEDDINGS.search(name) for name in tensors):
        copies.add(_TIED_HEAD)

    def is_buffer(name: str, tensor: TensorInfo) -> bool:
        return bool(_BUFFER.search(name) or (_CAUSAL_MASK.search(name) and len(tensor.shape) == 4))

    return {name: tensor for name, tensor in tensors.items() if name not in copies and not is_buffer(name, tensor)}


def _weight_files(folder: Path) -> list[Path]:
    if (folder / _INDEX).exists():
        index = _read_json(folder / _INDEX, "it lists the shards")
        names = sorted(set(index.get("weight_map", {}).values()))
        missing = [name for name in names if not (folder / name).exists()]
        if missing or not names:
            found = f"{', '.join(missing)} missing" if missing else "no weight_map"
            raise InputError(f"{folder / _INDEX}: expected every shard it lists, found {found}; fetch the model again")
        return [folder / name for name in names]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = sorted(folder.glob("*.bin"))
        hint = "; it has pickled weights: convert them with `save_pretrained(…)` of transformers" if pickled else ""
        raise InputError(f"{folder}: expected *.safetensors, found none{hint}")
    return files


def _read_json(file: Path, why: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{file}: missing; {why}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected a JSON object, found {type(content).__name__}")
    return content
