"""A model folder opened from its headers alone; weights are read by rows when asked for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmerge_core.architecture import Architecture, Matrix, derive, towers
from nmerge_core.checkpoints.adapter import Adapter, open_adapter
from nmerge_core.checkpoints.adapter_config import ADAPTER_CONFIG
from nmerge_core.checkpoints.header import TensorInfo
from nmerge_core.checkpoints.json_file import read_json
from nmerge_core.checkpoints.pickled import PICKLED, reader
from nmerge_core.checkpoints.reference import halves, resolve
from nmerge_core.checkpoints.rows import read_rows, read_runs
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
_OWN_CODE = "auto_map"  # the classes that a checkpoint brings along as Python files
_INDEX = "model.safetensors.index.json"
_PICKLED = "pytorch_model.bin"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's configuration and its tensors in file order; no weight is held.

    With an adapter, `folder`, `config` and `tensors` are the model's own; `read` gives what the adapter makes of them.
    """

    reference: str
    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    adapter: Adapter | None = None

    @cached_property
    def architecture(self) -> Architecture:
        """The neurons of this model; raises InputError naming the model where the family is not known."""
        try:
            return derive(self.config, {name: tensor.shape for name, tensor in self.tensors.items()})
        except InputError as error:
            own = f"; it is defined by code of its own (config.json, key '{_OWN_CODE}'), which is never run"
            raise InputError(f"{self.reference}: {error}{own if _OWN_CODE in self.config else ''}") from None

    @property
    def parameters(self) -> int:
        """The number of weights, a tied tensor counted once."""
        return sum(tensor.elements for tensor in self.tensors.values())

    @property
    def bytes(self) -> int:
        """The size of all weights in bytes, and of the adapter's file."""
        own = sum(tensor.bytes for tensor in self.tensors.values())
        return own + self.adapter.file.stat().st_size if self.adapter else own

    @property
    def pickled(self) -> bool:
        """Whether its own weights come from files of torch.save."""
        return any(tensor.file.suffix == PICKLED for tensor in self.tensors.values())

    @property
    def files(self) -> list[Path]:
        """The weight files, in order of name, the adapter's last."""
        own = sorted({tensor.file for tensor in self.tensors.values()})
        return [*own, self.adapter.file] if self.adapter else own

    def as_stored(self, name: str) -> bool:
        """Whether a tensor's file holds its entries as they are, with no adapter to be added to them."""
        return self.adapter is None or self.info(name).name not in self.adapter.changed

    def read(self, name: str, start: int = 0, stop: int | None = None) -> "torch.Tensor":
        """Read rows [start, stop) of a tensor in the checkpoint's own dtype, those that an adapter changes in float32.

        Raises:
            InputError: the tensor is not there, or its file ended or vanished since the headers were read.
        """
        tensor = self.info(name)
        stop = tensor.rows if stop is None else stop
        if self.adapter is None or self.as_stored(name):
            return read_rows(tensor, start, stop)
        values = read_rows(self.adapter.stored(tensor), start, stop).float()
        return self.adapter.add_to(values, tensor.name, start, stop)

    def read_matrix(self, name: str, matrix: Matrix, start: int, stop: int) -> "torch.Tensor":
        """Read rows [start, stop) of a tensor seen as `matrix`, (rows, columns), in the dtypes of `read`.

        Raises:
            InputError: as `read`.
        """
        tensor = self.info(name)
        adapter = None if self.as_stored(name) else self.adapter
        values = read_runs(adapter.stored(tensor) if adapter else tensor, matrix.runs(start, stop))
        if matrix.transposed:
            values = values.view(matrix.columns, stop - start).T.contiguous()
        values = values.view(stop - start, matrix.columns)  # (rows, columns)
        return adapter.add_to(values.float(), tensor.name, start, stop, matrix.transposed) if adapter else values

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


def open_checkpoint(reference: str) -> Checkpoint:
    """Open a model, or MODEL+ADAPTER, from its headers (well under a second, whatever its size).

    Where there are no safetensors, pickled weights are opened as `pickled` tells.

    Raises:
        InputError: no such model, a file of it is missing, truncated or unreadable, or it has no weights; or its
            adapter is none that can be added to its weights.
    """
    model, *adapter = halves(reference)
    folder = resolve(model)
    if (folder / ADAPTER_CONFIG).exists() and not (folder / "config.json").exists():
        raise InputError(
            f"{model}: expected a model, found an adapter; write MODEL+{model} with the model it was trained on"
        )
    config = read_json(folder / "config.json", "a Hugging Face model folder has one")
    tensors: dict[str, TensorInfo] = {}
    for file in _weight_files(folder):
        for name, tensor in reader(file)(file).items():
            if name in tensors:
                raise InputError(f"{file}: tensor {name} is also in {tensors[name].file.name}; expected it once")
            tensors[name] = tensor
    opened = Checkpoint(reference, folder, config, _parameters(config, tensors))
    return replace(opened, adapter=open_adapter(adapter[0], opened)) if adapter else opened


def _parameters(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Leave out what is no parameter of its own: buffers, and copies of tied embeddings."""
    copies = set(_TIED_EMBEDDINGS) if "shared.weight" in tensors else set()
    if config.get("tie_word_embeddings") and any(_EMBEDDINGS.search(name) for name in tensors):
        copies.add(_TIED_HEAD)
    if config.get("tie_word_embeddings", True):
        first: dict[tuple[Path, int], str] = {}  # a pickle has tied tensors under all of their names
        for tensor in sorted(tensors.values(), key=lambda tensor: tensor.name == _TIED_HEAD):
            name, place = tensor.name, (tensor.file, tensor.offset)
            if name not in copies and tensor.elements and first.setdefault(place, name) != name:
                copies.add(name)

    def is_buffer(name: str, tensor: TensorInfo) -> bool:
        return bool(_BUFFER.search(name) or (_CAUSAL_MASK.search(name) and len(tensor.shape) == 4))

    return {name: tensor for name, tensor in tensors.items() if name not in copies and not is_buffer(name, tensor)}


def _weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder or, where it has none, the pickled ones, as transformers chooses."""
    if (folder / _INDEX).exists():
        return _shards(folder / _INDEX)
    if files := sorted(folder.glob("*.safetensors")):
        return files
    if (folder / _PICKLED).exists():
        return [folder / _PICKLED]
    index = folder / f"{_PICKLED}.index.json"
    if index.exists() or any(folder.glob("pytorch_model-*.bin")):
        return _shards(index)
    raise InputError(f"{folder}: expected *.safetensors (or {_PICKLED}), found none")


def _shards(index: Path) -> list[Path]:
    names = sorted(set(read_json(index, "it lists the shards").get("weight_map", {}).values()))
    missing = [name for name in names if not (index.parent / name).exists()]
    if missing or not names:
        found = f"{', '.join(missing)} missing" if missing else "no weight_map"
        raise InputError(f"{index}: expected every shard it lists, found {found}; fetch the model again")
    return [index.parent / name for name in names]
