"""Opening a model folder from its headers alone: which files hold its weights, and which tensors are parameters."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nmerge_core.checkpoints.adapter_config import ADAPTER_CONFIG
from nmerge_core.checkpoints.adapter_opening import open_adapter
from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.checkpoints.header import TensorInfo
from nmerge_core.checkpoints.json_file import read_json
from nmerge_core.checkpoints.pickled import reader
from nmerge_core.checkpoints.reference import halves, resolve
from nmerge_core.errors import InputError

# What a model shares with its embeddings where these are tied; some fine-tunes store a copy of it all the same.
_TIED_HEAD = "lm_head.weight"
_TIED_EMBEDDINGS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # T5's, of `shared`
# Masks, positions and rotary frequencies that older versions of transformers stored: not parameters, and not loaded.
_BUFFER = re.compile(r"(?:^|\.)(?:attn\.masked_bias|position_ids|rotary_emb\.inv_freq)$")
_EMBEDDINGS = re.compile(r"(?:^|\.)(?:embed_tokens|wte|shared)\.weight$")
_CAUSAL_MASK = re.compile(r"(?:^|\.)attn\.bias$")
_INDEX = "model.safetensors.index.json"
_PICKLED = "pytorch_model.bin"


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
