"""A checkpoint as a running transformers model with its tokenizer."""

import logging
import os
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils.logging import disable_progress_bar
from transformers.utils.quantization_config import FineGrainedFP8Config, Mxfp4Config

from nmerge_core.architecture import Architecture
from nmerge_core.checkpoints import Checkpoint, label, open_checkpoint
from nmerge_core.checkpoints.adapter import Adapter
from nmerge_core.checkpoints.adapter_opening import find_tensor
from nmerge_core.checkpoints.rows import torch_dtype
from nmerge_core.checkpoints.tokenizer import load_tokenizer
from nmerge_core.errors import InputError
from nmerge_core.machine import choose_device
from nmerge_core.number_format import AUTO, ITEM_BYTES, choose_format

_BLOCK_ELEMENTS = 1 << 22  # of a weight that an adapter is added to at once, in float32
_DEVICE_SHARE = 0.8  # of a device's free memory that weights may fill; the rest is for activations


@dataclass(frozen=True)
class LanguageModel:
    """A model in evaluation mode, its tokenizer, and the device that takes its input."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    architecture: Architecture
    label: str
    device: torch.device

    @property
    def run_dtype(self) -> str:
        """The name of the number format it runs in."""
        return str(self.model.dtype).removeprefix("torch.")

    def longest(self, max_length: int) -> int:
        """Return how many tokens of a text are read: `max_length`, or as many as the model takes.

        Raises:
            InputError: `max_length` is not at least 1.
        """
        if max_length < 1:
            raise InputError(f"max_length must be at least 1, found {max_length}")
        return min(max_length, getattr(self.model.config, "max_position_embeddings", max_length))


def load_model(reference: str, device: str = "auto", run_dtype: str = AUTO) -> LanguageModel:
    """Load a model in the number format it is to run in; code that comes with a model is never run.

    An adapter is added to the weights: summed in float32 by blocks of rows, then rounded to the checkpoint's dtype, as
    a merge that writes this dtype does, whatever format the model runs in.

    Args:
        reference: a model folder or a Hub id, or MODEL+ADAPTER.
        device: "auto", or a torch device. "auto" is this process's GPU (by LOCAL_RANK) if there is one, all GPUs and
            the CPU together if the model is larger than one GPU, else the CPU.
        run_dtype: as in `number_format.choose_format`.

    Raises:
        InputError: the model is no causal language model; it, its tokenizer or its adapter cannot be loaded; weights
            are missing; or there is no such device.
    """
    checkpoint = open_checkpoint(reference)
    kind = auto_class(checkpoint)
    disable_progress_bar()
    chosen = choose_format(checkpoint, run_dtype, device)
    if chosen.remark:
        logging.warning(chosen.remark)
    place = _place(device, checkpoint.parameters * ITEM_BYTES[chosen.name])
    plain = {"fp8": FineGrainedFP8Config, "mxfp4": Mxfp4Config}.get(checkpoint.quantised)
    tokenizer = load_tokenizer(checkpoint)
    try:
        loaded: Any = kind.from_pretrained(
            checkpoint.folder,
            **({"quantization_config": plain(dequantize=True)} if plain else {}),
            dtype=getattr(torch, chosen.name),
            device_map=place,
            trust_remote_code=False,
            use_safetensors=not checkpoint.pickled,  # else it reads with weights_only, as we do
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # a configuration can hold anything, so anything can go wrong
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{reference}: transformers cannot load the model ({reason})") from error
    model, found = loaded  # as `output_loading_info` asks; its types do not tell
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise InputError(f"{reference}: {len(missing):,} tensors of the model are missing, {missing[0]} among them")
    if plain:
        model.to(getattr(torch, chosen.name))  # transformers leaves some of them in bfloat16
    if checkpoint.adapter:
        _add_adapter(model, checkpoint, checkpoint.adapter)
    return LanguageModel(model.eval(), tokenizer, checkpoint.architecture, label(reference), model.device)


@torch.no_grad()
def _add_adapter(model: PreTrainedModel, checkpoint: Checkpoint, adapter: Adapter) -> None:
    parameters = dict(model.named_parameters())
    for name in sorted(adapter.changed):
        tensor, own = checkpoint.info(name), find_tensor(name, parameters)
        if own is None or parameters[own].shape != tensor.shape or parameters[own].is_meta:
            found = "on disk" if own and parameters[own].is_meta else "stored in another form"
            raise InputError(
                f"{checkpoint.reference}, tensor {name}: expected a weight of the loaded model, found it {found}; "
                "merge model and adapter into a folder (merge_method: linear, this one model) and name that"
            )
        step = max(1, _BLOCK_ELEMENTS // max(1, tensor.row_elements))
        for start in range(0, tensor.rows, step):
            stop = min(start + step, tensor.rows)
            parameters[own][start:stop].copy_(checkpoint.read(name, start, stop).to(torch_dtype(tensor.dtype)))


def auto_class(checkpoint: Checkpoint) -> type[AutoModelForCausalLM] | type[AutoModelForImageTextToText]:
    """Return the class of transformers that loads a causal language model, one that sees images too among them.

    Raises:
        InputError: it is no causal language model: what runs a model on texts is for these alone.
    """
    found, config = checkpoint.architecture.model_type, checkpoint.config
    # Families of encoders load as causal models too, whose every token sees those after it: no score of it means any.
    reads_ahead = found in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not (config.get("is_decoder") or config.get("causal"))
    if found in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not reads_ahead:
        return AutoModelForCausalLM
    if found in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return AutoModelForImageTextToText
    what = f"a masked language model ('{found}' without 'is_decoder')" if reads_ahead else f"model type '{found}'"
    raise InputError(
        f"{checkpoint.reference}: expected a causal language model, found {what}; it can be inspected, merged and "
        "compared by cosine, but not classified, knocked out, scored or measured"
    )


def _place(device: str, size: int) -> str:
    if device == "auto":
        if not torch.cuda.is_available():
            return "cpu"
        local = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        free, _ = torch.cuda.mem_get_info(local)
        return local if size < _DEVICE_SHARE * free else "auto"
    return choose_device(device)
