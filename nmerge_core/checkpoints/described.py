"""Whether a folder's tensors are those of the model that its config.json describes; transformers makes up the rest."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nmerge_core.architecture import towers
from nmerge_core.architecture.config_keys import TEXT, VOCABULARY, WIDTHS
from nmerge_core.checkpoints.header import TensorInfo
from nmerge_core.checkpoints.parameters import layers_of
from nmerge_core.checkpoints.tying import embeddings_of, head_of, said_tied, ties_stored_head
from nmerge_core.checkpoints.vocabulary import counts_tokens, some
from nmerge_core.errors import InputError

_INNER = ("intermediate_size", "d_ff", "ffn_dim", "n_inner")  # of a mixture it may be that of layers it does not have
_WRITES = re.compile(r"(?:ForCausalLM|LMHeadModel|ForConditionalGeneration)$")
# Names that a module has inside of what wraps it for training or compiling, and not for transformers.
_WRAPPED = re.compile(r"(?:module|_orig_mod|_fsdp_wrapped_module|base_model\.model|pretrained_model)\.")


def with_embeddings(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> Mapping[str, TensorInfo]:
    """Return the tensors with the embeddings under their own name where only the head tied to them is stored."""
    head = head_of(tensors)
    if head is None or embeddings_of(tensors) or not ties_stored_head(config):
        return tensors
    from nmerge_core.checkpoints.conversion import conversion_of  # brings transformers along

    conversion = conversion_of(folder)
    name = conversion.tied.get(head) if conversion else None
    if name is None:
        return tensors
    return {(name if each == head else each): tensor for each, tensor in tensors.items()} | {
        name: replace(tensors[head], name=name)
    }


def check_described(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> None:
    """Refuse a folder whose configuration describes another model than its tensors make.

    transformers, which is slow to import, is asked only where sizes, layers or names look as if they were another's;
    a model that it does not know is taken as it is.

    Raises:
        InputError: a tensor that transformers would fill at random is missing, or one has another shape.
    """
    if not _doubtful(config, tensors):
        return
    from nmerge_core.checkpoints.conversion import conversion_of  # brings transformers along

    conversion = conversion_of(folder)
    if conversion is None:
        return
    file = folder / "config.json"
    if shapes := conversion.misshapen(tensors):
        told = [f"{name}: {list(described)}, found {list(tensors[name].shape)}" for name, described in shapes.items()]
        raise InputError(
            f"{file}: it does not describe the weights beside it: expected {some(told)}; fetch the configuration that "
            "belongs to them"
        )
    if absent := conversion.absent(tensors):
        odd = conversion.unknown(tensors)
        instead = f"; {some(odd)} are no names of this model" if odd else ""
        raise InputError(
            f"{folder}: its weights lack {some(absent)} of the model that config.json describes, which transformers "
            f"would fill at random{instead}; fetch it again, or save the model itself with save_pretrained"
        )


def _doubtful(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether the configuration looks like another model's; without importing transformers."""
    text = config.get(TEXT)
    own: Mapping[str, Any] = text if isinstance(text, Mapping) else config
    sizes = {size for tensor in tensors.values() for size in tensor.shape}
    embeddings = [tensor for name, tensor in tensors.items() if counts_tokens(name)]
    widths = WIDTHS if any("expert" in key for key in own) else (*WIDTHS, *_INNER)
    return (
        any(isinstance(own.get(key), int) and own[key] not in sizes for key in widths)
        or any(isinstance(own.get(VOCABULARY), int) and each.rows != own[VOCABULARY] for each in embeddings)
        or any(len(numbers) < (layers_of(config, tower) or 0) for tower, numbers in towers(tensors).items())
        or any(_WRAPPED.match(name) for name in tensors)
        or _headless(config, tensors)
    )


def _headless(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether a model that writes has no head, and says that it is not its embeddings."""
    architecture = next(iter(config.get("architectures") or ()), "")
    return said_tied(config) is False and head_of(tensors) is None and bool(_WRITES.search(architecture))
