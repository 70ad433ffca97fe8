"""Which files of a model folder hold its weights: those that transformers loads, and no others that lie beside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nmerge_core.architecture.config_keys import WEIGHTS_FILE
from nmerge_core.checkpoints.found_instead import found_instead
from nmerge_core.checkpoints.json_file import read_json
from nmerge_core.errors import InputError, shown
from nmerge_core.files.small_file import check_fetched

SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"
_INDEX = ".index.json"
_UNFINISHED = ".aria2"  # the suffix of what aria2 has beside a file that it still fetches
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
    raise InputError(f"{folder}: expected {SAFETENSORS} (or its index, or {PICKLED}), {found_instead(folder)}")


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
    if (file.parent / f"{file.name}{_UNFINISHED}").exists():  # the file has its full size from the start
        raise InputError(
            f"{file}: its download by aria2 did not end ({file.name}{_UNFINISHED} is there); go on with it"
        )
    check_fetched(file)
