"""Opening a model folder from its headers alone: what it is to transformers, and an adapter on top."""

from dataclasses import replace

from nmerge_core.checkpoints.adapter_config import ADAPTER_CONFIG
from nmerge_core.checkpoints.adapter_opening import open_adapter
from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.checkpoints.described import check_described, with_embeddings
from nmerge_core.checkpoints.header import TensorInfo
from nmerge_core.checkpoints.json_file import read_json
from nmerge_core.checkpoints.parameters import parameters
from nmerge_core.checkpoints.pickled import reader
from nmerge_core.checkpoints.quantised import dequantised
from nmerge_core.checkpoints.reference import halves, resolve
from nmerge_core.checkpoints.tying import TIED
from nmerge_core.checkpoints.weight_files import weight_files
from nmerge_core.errors import InputError


def open_checkpoint(reference: str) -> Checkpoint:
    """Open a model, or MODEL+ADAPTER, from its headers (well under a second, whatever its size).

    What it is are the weights that transformers loads from that folder. Where there are no safetensors, pickled weights
    are opened as `pickled` tells.

    Raises:
        InputError: no such model, a file of it is missing, truncated or unreadable, it has no weights, they are
            quantised in a way that is not read, or are not those of the model that its configuration describes; or its
            adapter is none that can be added to its weights.
    """
    model, *adapter = halves(reference)
    folder = resolve(model)
    if (folder / ADAPTER_CONFIG).exists():
        if not (folder / "config.json").exists():
            raise InputError(
                f"{model}: expected a model, found an adapter; write MODEL+{model} with the model it was trained on"
            )
        raise InputError(
            f"{folder}: expected a model, found one (config.json) and an adapter ({ADAPTER_CONFIG}) in one folder, of "
            "which transformers loads the adapter on the model that it names; move the adapter to a folder of its own"
        )
    config = read_json(folder / "config.json", "a Hugging Face model folder has one")
    tensors: dict[str, TensorInfo] = {}
    for file in weight_files(folder, config):
        for name, tensor in reader(file)(file).items():
            if name in tensors:
                raise InputError(f"{file}: tensor {name} is also in {tensors[name].file.name}; expected it once")
            tensors[name] = tensor
    found = parameters(config, with_embeddings(folder, config, dequantised(model, config, tensors)))
    check_described(folder, config, found.own)
    if found.untied:
        config[TIED] = False
    opened = Checkpoint(reference, folder, config, found.own, found.carried)
    return replace(opened, adapter=open_adapter(adapter[0], opened)) if adapter else opened
