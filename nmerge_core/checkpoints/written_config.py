"""The configuration of a written checkpoint: it follows from the tensors that were written."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nmerge_core.architecture.config_keys import OWN_CODE, QUANTISATION, TOWERS, WEIGHTS_FILE
from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.checkpoints.header import TORCH_NAMES, TensorInfo
from nmerge_core.checkpoints.json_file import read_json
from nmerge_core.checkpoints.tying import TIED, head_of

_QUANTISED = (QUANTISATION, "compression_config")  # how other weights than the written ones were stored
_LEFT_OUT = (*_QUANTISED, OWN_CODE, WEIGHTS_FILE)


def written_config(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """Return a model's configuration for these tensors: in their number format, and with a head of their own not tied.

    It says neither how other weights were quantised, nor in which file they were, nor which code came with them. Where
    no head was written it says of tying what it said.
    """
    entries = Counter[str]()
    for tensor in tensors.values():
        entries[tensor.dtype] += tensor.elements
    dtype = TORCH_NAMES[entries.most_common(1)[0][0]]
    written: dict[str, Any] = {"dtype": dtype, "torch_dtype": dtype}
    # An encoder-decoder's key also says how its outputs are scaled, which no tensor shows.
    if head_of(tensors) and not config.get("is_encoder_decoder"):
        written[TIED] = False
    unsaid = {key for key in written if key not in config} - {"dtype" if "torch_dtype" in config else "torch_dtype"}
    return _following({**config, **{key: written[key] for key in unsaid}}, written)


def _following(config: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration, and those of its towers, with the written values of the keys that it has."""
    kept = {key: written.get(key, value) for key, value in config.items() if key not in _LEFT_OUT}
    return kept | {key: _following(kept[key], written) for key in TOWERS if isinstance(kept.get(key), Mapping)}


def configurations(folder: Path) -> list[Path]:
    """Return the files of a folder that name code of the checkpoint's own: its configuration, tokenizer, processors."""
    found = sorted(folder.glob("*config.json"))
    return [file for file in found if file.is_file() and OWN_CODE in read_json(file, "")]


def left_out(donor: Checkpoint, tokenizer: Checkpoint) -> list[str]:
    """Say what a checkpoint written after these two has not of their configurations."""
    told = [
        f"{donor.folder / 'config.json'}: key '{key}' is left out of the merge, whose weights are not quantised"
        for key in _QUANTISED
        if key in donor.config
    ]
    own = [*([donor.folder / "config.json"] if OWN_CODE in donor.config else []), *configurations(tokenizer.folder)]
    return told + [
        f"{file}: key '{OWN_CODE}' is left out of the merge, as code that comes with a model is neither run nor "
        "copied; the merge is loaded by transformers' own classes"
        for file in dict.fromkeys(own)
    ]
