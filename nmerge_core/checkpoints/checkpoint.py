"""A model folder opened from its headers alone; weights are read by rows when asked for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmerge_core.architecture import Architecture, derive
from nmerge_core.checkpoints.header import TensorInfo, read_header
from nmerge_core.checkpoints.reference import resolve
from nmerge_core.checkpoints.rows import read_rows
from nmerge_core.errors import InputError

if TYPE_CHECKING:
    import torch

# The head that a tied model shares with its embeddings; some fine-tunes store a copy of it all the same.
TIED_HEAD = "lm_head.weight"
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
        return read_rows(self.info(name), start, stop)

    def info(self, name: str) -> TensorInfo:
        """Return where a tensor lies; raises InputError where the checkpoint has none of that name."""
        if name not in self.tensors:
            raise InputError(f"{self.reference}: no tensor '{name}'")
        return self.tensors[name]


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
    if config.get("tie_word_embeddings") and any("embed_tokens" in name for name in tensors):
        tensors.pop(TIED_HEAD, None)
    return Checkpoint(reference, folder, config, tensors)


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
