"""Opening a model folder from its headers alone: what it is to transformers, and an adapter on top."""

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from nmerge_core.checkpoints.adapter_config import ADAPTER_CONFIG
from nmerge_core.checkpoints.adapter_opening import open_adapter
from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.checkpoints.companions import companions
from nmerge_core.checkpoints.described import check_described, with_embeddings
from nmerge_core.checkpoints.fingerprint import Stamp, stamps
from nmerge_core.checkpoints.found_instead import found_instead
from nmerge_core.checkpoints.header import TensorInfo
from nmerge_core.checkpoints.json_file import read_json
from nmerge_core.checkpoints.parameters import parameters
from nmerge_core.checkpoints.pickled import reader
from nmerge_core.checkpoints.quantised import dequantised
from nmerge_core.checkpoints.reference import halves, resolve
from nmerge_core.checkpoints.tying import TIED
from nmerge_core.checkpoints.weight_files import SAFETENSORS, weight_files
from nmerge_core.errors import InputError, short
from nmerge_core.files.small_file import check_fetched

Listed = tuple[tuple[str, Stamp], ...]  # the files of a folder
_NEW = 2 * 10**9  # nanoseconds


def open_checkpoint(reference: str) -> Checkpoint:
    """Open a model, or MODEL+ADAPTER, from its headers (well under a second, whatever its size).

    What it is are the weights that transformers loads from that folder, which is not read again while its files are as
    they were. Where there are no safetensors, pickled weights
    are opened as `pickled` tells.

    Raises:
        InputError: no such model, a file of it is missing, truncated, not fetched or unreadable, it has no weights,
            they are quantised in a way that is not read, or are not those of the model that its configuration
            describes; or its adapter is none that can be added to its weights.
    """
    model, *adapter = halves(reference)
    folder = resolve(model)
    if (folder / ADAPTER_CONFIG).exists():
        if not (folder / "config.json").exists():
            trained_on = read_json(folder / ADAPTER_CONFIG, "it tells an adapter").get("base_model_name_or_path")
            named = f" ({short(trained_on)})" if isinstance(trained_on, str) and trained_on else ""
            raise InputError(
                f"{model}: expected a model, found an adapter; write MODEL+{model} with the model it was trained on"
                f"{named}"
            )
        raise InputError(
            f"{folder}: expected a model, found one (config.json) and an adapter ({ADAPTER_CONFIG}) in one folder, of "
            "which transformers loads the adapter on the model that it names; move the adapter to a folder of its own"
        )
    listed = _listed(folder)
    again = _just_written(listed)
    opened, found = (_opened.__wrapped__ if again else _opened)(model, folder, listed)
    if not again and stamps([opened]) != found:  # a shard below the folder, which the list does not show
        _opened.cache_clear()
        opened, _ = _opened(model, folder, listed)
    if not adapter:
        return opened
    whole = replace(opened, reference=reference)
    return replace(whole, adapter=open_adapter(adapter[0], whole))


def _listed(folder: Path) -> Listed:
    """Return what tells the state of a folder from an earlier one; pages open their models many times a click."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                status = entry.stat()
            except OSError:  # a link that leads nowhere
                continue
            found.append((entry.name, (status.st_ino, status.st_size, status.st_mtime_ns)))
    return tuple(sorted(found))


def _just_written(listed: Listed) -> bool:
    """Tell whether a file is so new that it could change once more and have the same time: in some systems' seconds."""
    return any(modified > time.time_ns() - _NEW for _, (_, _, modified) in listed)


@lru_cache(maxsize=64)
def _opened(model: str, folder: Path, listed: Listed) -> tuple[Checkpoint, Mapping[Path, Stamp]]:
    """Open a model in the state that its folder is in, and return the stamps of its weights."""
    if not (folder / "config.json").exists():
        raise InputError(f"{folder}: expected a model (config.json and {SAFETENSORS}), {found_instead(folder)}")
    config = read_json(folder / "config.json", "it describes the model")
    for file in companions(folder):  # a tokenizer that was not fetched would go along with every merge
        check_fetched(file)
    tensors: dict[str, TensorInfo] = {}
    for file in weight_files(folder, config):
        for name, tensor in reader(file)(file).items():
            if name in tensors:
                raise InputError(f"{file}: tensor {name} is also in {tensors[name].file.name}; expected it once")
            tensors[name] = tensor
    opened = checkpoint_of(model, folder, config, tensors)
    return opened, stamps([opened])


def checkpoint_of(
    reference: str, folder: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> Checkpoint:
    """Return the model that transformers makes of a folder's configuration and these tensors, stored or computed.

    Raises:
        InputError: they are quantised in a way that is not read, or not those of the model that is described.
    """
    found = parameters(config, with_embeddings(folder, config, dequantised(reference, config, tensors)))
    check_described(folder, config, found.own)
    config = {**config, TIED: False} if found.untied else config
    return Checkpoint(reference, folder, config, found.own, found.carried)
