"""Which files of a model folder hold its weights: those that transformers loads, and no others that lie beside them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nmerge_core.architecture.config_keys import WEIGHTS_FILE
from nmerge_core.checkpoints.json_file import read_json
from nmerge_core.errors import InputError, shown

SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"
_INDEX = ".index.json"
_LFS_POINTER = b"version https://git-lfs"
_SHARD = re.compile(r"(model|pytorch_model)-\d+-of-\d+(\.safetensors|\.bin)")
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".h5")
_LISTED = 3  # files named in a message before "and N more"


def weight_files(folder: Path, config: Mapping[str, Any]) -> list[Path]:
    """Return the files that hold a model's weights, in transformers' order of preference.

    model.safetensors comes before an index of shards, safetensors before pickles; whatever else lies in the folder
    (consolidated.safetensors, other precisions, optimizer states, a left-over adapter) is no part of the model.

    Raises:
        InputError: there are none, or a shard that the index lists is missing.
    """
    for name in _candidates(folder, config):
        file = folder / name
        if file.exists():
            files = _shards(file) if name.endswith(_INDEX) else [file]
            for each in files:
                _check_fetched(each)
            return files
    raise InputError(f"{folder}: expected {SAFETENSORS} (or its index, or {PICKLED}), {_found_instead(folder)}")


def is_complete(folder: Path) -> bool:
    """Tell whether a model's weights, or an adapter's, are all there; of a folder without an index, whether any is."""
    if any((folder / f"adapter_model{suffix}").exists() for suffix in (".safetensors", ".bin")):
        return True
    found = next((folder / name for name in _candidates(folder, {}) if (folder / name).exists()), None)
    try:
        return found is not None and not (found.name.endswith(_INDEX) and _missing(found))
    except InputError:  # its index cannot be read
        return False


def _candidates(folder: Path, config: Mapping[str, Any]) -> list[str]:
    named = config.get(WEIGHTS_FILE)
    if named is not None and (not isinstance(named, str) or Path(named).name != named):
        raise InputError(
            f"{folder / 'config.json'}, key '{WEIGHTS_FILE}': expected the name of a file beside it, found "
            f"{shown(named)}"
        )
    return [named] if named else [SAFETENSORS, SAFETENSORS + _INDEX, PICKLED, PICKLED + _INDEX]


def _shards(index: Path) -> list[Path]:
    if missing := _missing(index):
        raise InputError(
            f"{index}: expected every shard it lists, found {', '.join(missing[:_LISTED])} missing; fetch the model "
            "again, or remove this index if it is left over from another save"
        )
    return [index.parent / name for name in _listed(index)]


def _missing(index: Path) -> list[str]:
    return [name for name in _listed(index) if not (index.parent / name).exists()]


def _listed(index: Path) -> list[str]:
    names = read_json(index, "it lists the shards").get("weight_map")
    if not names:
        raise InputError(
            f"{index}: expected a 'weight_map' from tensors to files beside it, found none; fetch it again"
        )
    return sorted(set(names.values()))


def _check_fetched(file: Path) -> None:
    """Refuse what stands for a file that was not fetched, or is none; other faults are told by the file's reader."""
    if file.exists() and not file.is_file():  # opening a pipe would wait for somebody to write
        raise InputError(f"{file}: expected a file, found {'a folder' if file.is_dir() else 'a device or a pipe'}")
    try:
        with file.open("rb") as stream:
            pointer = stream.read(len(_LFS_POINTER)) == _LFS_POINTER
    except OSError:
        return
    if pointer:
        raise InputError(f"{file}: a Git LFS pointer, not the weights; fetch them (`git lfs pull` in that folder)")


def _found_instead(folder: Path) -> str:
    """Say what is there in the place of weights, and what to do."""
    if gguf := sorted(folder.glob("*.gguf")):
        return (
            f"found {gguf[0].name}: GGUF is quantised for llama.cpp; name the folder or Hub id of the original model, "
            "or dequantise it with transformers (from_pretrained(…, gguf_file=…), then save_pretrained)"
        )
    others = sorted(file.name for suffix in _SUFFIXES for file in folder.glob(f"*{suffix}"))
    if not others:
        return "found no weights; name the folder that holds them"
    if shard := next((found for name in others if (found := _SHARD.fullmatch(name))), None):
        return f"found {shard[0]} without {shard[1]}{shard[2]}{_INDEX}, which lists the shards; fetch the model again"
    more = f" and {len(others) - _LISTED:,} more" if len(others) > _LISTED else ""
    return (
        f"found {', '.join(others[:_LISTED])}{more}, which transformers does not load; fetch the files that are "
        "missing, or load the model your way and save it with save_pretrained"
    )
