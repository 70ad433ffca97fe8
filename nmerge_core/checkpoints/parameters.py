"""Which tensors of a folder are a model's parameters: not buffers, copies of tied embeddings, or what never runs."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from nmerge_core.architecture.mlps import LAYER
from nmerge_core.checkpoints.header import TensorInfo
from nmerge_core.checkpoints.quantised import is_counter

TIED = "tie_word_embeddings"
# The head and the embeddings that it may be, as transformers' decoders and encoders name them.
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out|cls\.predictions\.decoder)\.weight$")
_EMBEDDINGS = re.compile(r"(?:^|\.)(?:embed_tokens|embed_in|wte|shared|word_embeddings)\.weight$")
_COPIES_OF_SHARED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # T5's
# Masks, positions and rotary frequencies that older versions of transformers stored: not parameters, and not loaded.
_BUFFER = re.compile(r"(?:^|\.)(?:(?:attn|attention)\.masked_bias|position_ids|rotary_emb\.inv_freq)$")
_CAUSAL_MASK = re.compile(r"(?:^|\.)(?:attn|attention)\.bias$")
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
_DECODER_LAYERS = ("num_decoder_layers", "decoder_layers")
# Heads that predict tokens beyond the next (DeepSeek-V3, Qwen3-Next): transformers does not build them.
_BEYOND = re.compile(r"(?:^|\.)mtp\w*\.")
_VISION = re.compile(r"vision|visual|image|audio")
_READ = 1 << 24  # bytes compared at a time


@dataclass(frozen=True)
class Parameters:
    """A folder's tensors by what they are: parameters, and what is carried along though no forward pass reads it.

    `untied` says that head and embeddings are two, whatever the configuration says.
    """

    own: Mapping[str, TensorInfo]
    carried: Mapping[str, TensorInfo]
    untied: bool


def parameters(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Parameters:
    """Sort the tensors of a folder as transformers does when it loads them.

    A head that is stored beside the embeddings it is tied to by the configuration is a copy if it is equal to them,
    else it is a parameter of its own (transformers 5). Layers beyond those of the configuration, heads for tokens
    beyond the next, and counters in whole numbers are carried.
    """
    kept = {name: tensor for name, tensor in tensors.items() if not _is_buffer(name, tensor)}
    head, embeddings = head_of(kept), embeddings_of(kept)
    tied = [name for name in _COPIES_OF_SHARED if name in kept and embeddings == "shared.weight"]
    tied += [head] if head and embeddings and says_tied(config) else []
    copies = {name for name in tied if embeddings and same_values(kept[name], kept[embeddings])}
    untied = head in tied and head not in copies
    if config.get(TIED, True) and not untied:
        copies |= _stored_twice(kept)
    beyond = {name for name in kept if name not in copies and never_runs(config, name, kept[name])}
    return Parameters(
        own={name: tensor for name, tensor in kept.items() if name not in copies | beyond},
        carried={name: kept[name] for name in kept if name in beyond},
        untied=untied,
    )


def head_of(tensors: Mapping[str, TensorInfo]) -> str | None:
    """Return the name of the head, where it is a parameter of its own."""
    return next((name for name in tensors if _HEAD.search(name)), None)


def embeddings_of(tensors: Mapping[str, TensorInfo]) -> str | None:
    """Return the name of the embeddings of the tokens: T5's two stacks share one."""
    found = [name for name in tensors if _EMBEDDINGS.search(name)]
    return next((name for name in found if name == "shared.weight"), found[0] if found else None)


def says_tied(config: Mapping[str, Any]) -> bool:
    """Tell whether the configuration ties a stored head to the embeddings, by its family's default if it is silent."""
    text = config.get("text_config")
    for each in (config, text if isinstance(text, Mapping) else {}):
        if isinstance(each.get(TIED), bool):
            return bool(each[TIED])
    return _default_tied(str(config.get("model_type")))


@lru_cache(maxsize=64)
def _default_tied(model_type: str) -> bool:
    """Ask transformers, which takes a second to import: for the rare folder that does not say and has a head."""
    from transformers import AutoConfig

    try:
        return bool(getattr(AutoConfig.for_model(model_type), TIED, False))
    except (ValueError, KeyError):
        return False


def never_runs(config: Mapping[str, Any], name: str, tensor: TensorInfo) -> bool:
    """Tell whether a model that transformers builds by this configuration has no such parameter."""
    if _BEYOND.search(name) or is_counter(tensor):
        return True
    layer = LAYER.match(name)
    count = layers_of(config, layer["tower"]) if layer else None
    return bool(layer and count and int(layer["number"]) >= count)


def layers_of(config: Mapping[str, Any], tower: str) -> int | None:
    """Return how many layers the configuration gives a tower; None where it does not say."""
    part: Any = config
    if _VISION.search(tower):
        part = config.get("vision_config") if "vision_config" in config or "text_config" in config else config
    elif isinstance(config.get("text_config"), Mapping):
        part = config["text_config"]
    if not isinstance(part, Mapping):
        return None
    keys = (*_DECODER_LAYERS, *_LAYERS) if "decoder" in tower else _LAYERS
    return next((value for key in keys if isinstance(value := part.get(key), int)), None)


def _is_buffer(name: str, tensor: TensorInfo) -> bool:
    return bool(_BUFFER.search(name) or (_CAUSAL_MASK.search(name) and len(tensor.shape) == 4))


def _stored_twice(tensors: Mapping[str, TensorInfo]) -> set[str]:
    """Return later names of one stored tensor: a pickle has tied tensors under all of their names."""
    first: dict[tuple[Path, int], str] = {}
    copies = set()
    for name, tensor in sorted(tensors.items(), key=lambda each: bool(_HEAD.search(each[0]))):
        if tensor.elements and first.setdefault((tensor.file, tensor.offset), name) != name:
            copies.add(name)
    return copies


def same_values(one: TensorInfo, other: TensorInfo) -> bool:
    """Tell whether two stored tensors are equal to the last bit; they are read up to where they differ."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    if (one.file, one.offset) == (other.file, other.offset):
        return True
    times = [tensor.file.stat().st_mtime_ns for tensor in (one, other)]
    return _same_bytes((one.file, one.offset, times[0]), (other.file, other.offset, times[1]), one.bytes)


@lru_cache(maxsize=64)
def _same_bytes(one: tuple[Path, int, int], other: tuple[Path, int, int], size: int) -> bool:
    pairs = zip(_chunks(one[0], one[1], size), _chunks(other[0], other[1], size), strict=True)
    return all(mine == theirs for mine, theirs in pairs)


def _chunks(file: Path, offset: int, size: int) -> Iterator[bytes]:
    with file.open("rb") as stream:
        stream.seek(offset, os.SEEK_SET)
        for start in range(0, size, _READ):
            yield stream.read(min(_READ, size - start))
