"""Which tensors of a folder are a model's parameters: not buffers, copies of tied embeddings, or what never runs."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from nmerge_core.architecture import LAYER
from nmerge_core.architecture.config_keys import DECODER_LAYERS, LAYERS, TEXT
from nmerge_core.checkpoints.header import DTYPE_BYTES, TensorInfo
from nmerge_core.checkpoints.quantised import is_counter
from nmerge_core.checkpoints.rows import read_into
from nmerge_core.checkpoints.tying import embeddings_of, head_of, is_language_head, said_tied, ties_stored_head

_COPIES_OF_SHARED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # T5's
# Masks, positions and rotary frequencies that older versions of transformers stored: not parameters, and not loaded.
_BUFFER = re.compile(r"(?:^|\.)(?:(?:attn|attention)\.masked_bias|position_ids|rotary_emb\.inv_freq)$")
_CAUSAL_MASK = re.compile(r"(?:^|\.)(?:attn|attention)\.bias$")
# Heads that predict tokens beyond the next (DeepSeek-V3, Qwen3-Next): transformers does not build them.
_BEYOND = re.compile(r"(?:^|\.)mtp\w*\.")
_VISION = re.compile(r"vision|visual|image|audio")
_READ = 1 << 23  # entries compared at a time


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
    tied += [head] if head and embeddings and ties_stored_head(config) else []
    copies = {name for name in tied if embeddings and same_values(kept[name], kept[embeddings])}
    untied = head in tied and head not in copies
    if said_tied(config) is not False and not untied:
        copies |= _stored_twice(kept)
    beyond = {name for name in kept if name not in copies and never_runs(config, name, kept[name])}
    return Parameters(
        own={name: tensor for name, tensor in kept.items() if name not in copies | beyond},
        carried={name: kept[name] for name in kept if name in beyond},
        untied=untied,
    )


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
        part = config.get("vision_config") if "vision_config" in config or TEXT in config else config
    elif isinstance(config.get(TEXT), Mapping):
        part = config[TEXT]
    if not isinstance(part, Mapping):
        return None
    keys = (*DECODER_LAYERS, *LAYERS) if "decoder" in tower else LAYERS
    return next((value for key in keys if isinstance(value := part.get(key), int)), None)


def _is_buffer(name: str, tensor: TensorInfo) -> bool:
    return bool(_BUFFER.search(name) or (_CAUSAL_MASK.search(name) and len(tensor.shape) == 4))


def _stored_twice(tensors: Mapping[str, TensorInfo]) -> set[str]:
    """Return later names of one stored tensor: a pickle has tied tensors under all of their names."""
    first: dict[tuple[Path, int], str] = {}
    copies = set()
    for name, tensor in sorted(tensors.items(), key=lambda each: is_language_head(each[0])):
        if tensor.elements and first.setdefault((tensor.file, tensor.offset), name) != name:
            copies.add(name)
    return copies


def same_values(one: TensorInfo, other: TensorInfo) -> bool:
    """Tell whether two stored tensors are equal to the last bit; they are read up to where they differ."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    if (one.file, one.offset) == (other.file, other.offset):
        return True
    times = tuple(file.stat().st_mtime_ns for tensor in (one, other) for file in sorted(tensor.files))
    return _same_bytes(one, other, times)


@lru_cache(maxsize=64)
def _same_bytes(one: TensorInfo, other: TensorInfo, times: tuple[int, ...]) -> bool:
    """Compare two tensors; when their files were written to makes the cache forget those that were since."""
    return all(mine == theirs for mine, theirs in zip(_chunks(one), _chunks(other), strict=True))


def _chunks(tensor: TensorInfo) -> Iterator[bytearray]:
    """Yield a tensor's bytes, some at a time."""
    for start in range(0, tensor.elements, _READ):
        count = min(_READ, tensor.elements - start)
        chunk = bytearray(count * DTYPE_BYTES[tensor.dtype])
        read_into(tensor, [(start, count)], memoryview(chunk))
        yield chunk
