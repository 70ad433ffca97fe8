"""A checkpoint as a running transformers model with its tokenizer."""

import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoImageProcessor, PreTrainedModel, PreTrainedTokenizerBase
from transformers.initialization import no_init_weights
from transformers.utils.logging import disable_progress_bar
from transformers.utils.quantization_config import FineGrainedFP8Config, Mxfp4Config

from nmerge_core.architecture import Architecture
from nmerge_core.checkpoints import Checkpoint, label, open_checkpoint
from nmerge_core.checkpoints.adapter import Adapter
from nmerge_core.checkpoints.adapter_opening import find_tensor
from nmerge_core.checkpoints.rows import torch_dtype
from nmerge_core.checkpoints.tokenizer import load_tokenizer
from nmerge_core.checkpoints.written_config import written_config
from nmerge_core.errors import InputError, short
from nmerge_core.kinds import CAUSAL, CAUSAL_KINDS, Kind, check_causal, kind_of
from nmerge_core.machine import CPU, available_memory, choose_device, total_memory
from nmerge_core.number_format import AUTO, ITEM_BYTES, choose_format
from nmerge_core.pictures import Picture, pixels_of

_BLOCK_ELEMENTS = 1 << 22  # of a weight that an adapter is added to at once, in float32
_PROCESSOR = "preprocessor_config.json"
_SHARE = 0.8  # of the free memory of a device that weights may fill; the rest is for activations


@dataclass(frozen=True)
class LanguageModel:
    """A model in evaluation mode, its tokenizer, and the device that takes its input."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    architecture: Architecture
    label: str
    device: torch.device
    kind: Kind = CAUSAL

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

    def check_causal(self) -> None:
        """Raise an InputError where it is no causal language model, which alone tell what comes after each token."""
        check_causal(self.label, self.kind)


@dataclass(frozen=True, kw_only=True)
class ImageModel(LanguageModel):
    """A model that says what is on images, which its checkpoint's `processor` prepares for it.

    CLIP reads texts by its `tokenizer`; others have none.
    """

    tokenizer: Any
    processor: Any

    def longest(self, max_length: int) -> int:
        """Return how many tokens of a text are read: of CLIP its encoder of texts has the limit."""
        return min(super().longest(max_length), self.model.config.text_config.max_position_embeddings)

    def prepared(self, picture: Picture, **options: bool) -> torch.Tensor:
        """Return an image as the processor prepares it, (1, 3, height, width); `options` are the processor's.

        Raises:
            InputError: it cannot be read.
        """
        image = pixels_of(picture)
        try:
            pixels: torch.Tensor = self.processor(images=[image], return_tensors="pt", **options)["pixel_values"]
        except (OSError, ValueError) as error:
            raise InputError(f"image {picture.name}: the model cannot be shown it ({short(str(error))})") from error
        return pixels


def load_model(
    reference: str, device: str = "auto", run_dtype: str = AUTO, *, kinds: Collection[Kind] = CAUSAL_KINDS
) -> LanguageModel:
    """Load a model in the number format it is to run in; code that comes with a model is never run.

    An adapter is added to the weights: summed in float32 by blocks of rows, then rounded to the checkpoint's dtype, as
    a merge that writes this dtype does, whatever format the model runs in.

    Args:
        reference: a model folder or a Hub id, or MODEL+ADAPTER.
        device: "auto", or a torch device. "auto" is this process's GPU (by LOCAL_RANK) if there is one, all GPUs and
            the CPU together if the model is larger than one GPU, else the CPU.
        run_dtype: as in `number_format.choose_format`.
        kinds: those that are wanted; `kinds.SCORED` where it is only to be scored on tasks.

    Raises:
        InputError: the model is of no such kind; it, its tokenizer, its image processor or its adapter cannot be
            loaded; weights are missing; or there is no such device.
    """
    checkpoint = open_checkpoint(reference)
    kind = _kind(checkpoint, kinds)
    disable_progress_bar()
    chosen = choose_format(checkpoint, run_dtype, device)
    if chosen.remark:
        logging.warning(chosen.remark)
    place = _place(device, checkpoint.parameters * ITEM_BYTES[chosen.name])
    plain = {"fp8": FineGrainedFP8Config, "mxfp4": Mxfp4Config}.get(checkpoint.quantised)
    beside = _beside(checkpoint, kind)
    try:
        loaded: Any = kind.auto.from_pretrained(
            checkpoint.folder,
            **({"quantization_config": plain(dequantize=True)} if plain else {}),
            **dict(kind.options),
            dtype=getattr(torch, chosen.name),
            device_map=place,
            trust_remote_code=False,
            use_safetensors=not checkpoint.pickled,  # else it reads with weights_only, as we do
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise _not_loaded(reference, error) from error
    model, found = loaded  # as `output_loading_info` asks; its types do not tell
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise InputError(f"{reference}: {len(missing):,} tensors of the model are missing, {missing[0]} among them")
    if plain:
        model.to(getattr(torch, chosen.name))  # transformers leaves some of them in bfloat16
    if checkpoint.adapter:
        _add_adapter(model, checkpoint, checkpoint.adapter)
    return _made(model, checkpoint, kind, beside)


def empty_model(
    checkpoint: Checkpoint, device: str, run_dtype: str, *, kinds: Collection[Kind] = CAUSAL_KINDS
) -> LanguageModel:
    """Return a model of a checkpoint's configuration for weights that are yet to be put in: it holds none.

    Args:
        checkpoint: of which configuration and tokenizer are taken.
        device: a torch device.
        run_dtype: the number format of its weights.
        kinds: as in `load_model`.

    Raises:
        InputError: the model is of no such kind, or transformers cannot make it.
    """
    kind = _kind(checkpoint, kinds)
    beside = _beside(checkpoint, kind)
    try:
        known = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
        config = type(known).from_dict(written_config(checkpoint.config, checkpoint.tensors))
        with no_init_weights(), torch.device(device):
            model = kind.auto.from_config(config, dtype=getattr(torch, run_dtype))
        model.tie_weights()
    except Exception as error:
        raise _not_loaded(checkpoint.reference, error) from error
    return _made(model, checkpoint, kind, beside)


def _kind(checkpoint: Checkpoint, kinds: Collection[Kind]) -> Kind:
    """Return what kind of model a checkpoint is; raises InputError where it is none of those wanted."""
    kind = kind_of(checkpoint)
    if kind not in kinds:
        check_causal(checkpoint.reference, kind)
    return kind


def _beside(checkpoint: Checkpoint, kind: Kind) -> dict[str, Any]:
    """Load what prepares a model's input: tokenizer and, where it sees images, image processor."""
    seeing = {"processor": _load_processor(checkpoint)} if kind.sees_images else {}
    return {"tokenizer": load_tokenizer(checkpoint) if kind.reads_text else None, **seeing}


def _made(model: Any, checkpoint: Checkpoint, kind: Kind, beside: Mapping[str, Any]) -> LanguageModel:
    made: Any = ImageModel if kind.sees_images else LanguageModel
    own = {"architecture": checkpoint.architecture, "label": label(checkpoint.reference), "kind": kind}
    return made(model=model.eval(), device=model.device, **own, **beside)


def _not_loaded(reference: str, error: Exception) -> Exception:
    """Return the error to raise for one of transformers: as a configuration can hold anything, it may be any."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return error
    return InputError(f"{reference}: transformers cannot load the model ({_first_line(error)})")


def _load_processor(checkpoint: Checkpoint) -> Any:
    """Load what prepares images for a model, in Pillow's arithmetic wherever it runs.

    Raises:
        InputError: there is none, or transformers cannot load it.
    """
    file = checkpoint.folder / _PROCESSOR
    if not file.exists():
        raise InputError(
            f"{checkpoint.reference}: no {_PROCESSOR}, which says how images are prepared for the model; copy the base "
            "model's beside its weights"
        )
    try:
        return AutoImageProcessor.from_pretrained(checkpoint.folder, trust_remote_code=False, backend="pil")
    except Exception as error:  # the file can hold anything, so anything can go wrong
        raise InputError(f"{file}: transformers cannot load the image processor ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


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


def has_room(checkpoint: Checkpoint, device: str = "auto", run_dtype: str = AUTO) -> bool:
    """Tell whether a whole model has room in the memory that is free where `load_model` would put it."""
    size = checkpoint.parameters * ITEM_BYTES[choose_format(checkpoint, run_dtype, device).name]
    chosen = choose_device(device)
    room = available_memory() or total_memory() if device == "auto" or chosen == CPU else 0
    if chosen != CPU:
        every = range(torch.cuda.device_count()) if device == "auto" else [chosen]
        room += sum(torch.cuda.mem_get_info(gpu)[0] for gpu in every)
    return size < _SHARE * room


def own_device(device: str) -> str:
    """Return a torch device; "auto" is this process's GPU (by LOCAL_RANK) if there is one, else the CPU."""
    if device == "auto" and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return choose_device(device)


def _place(device: str, size: int) -> str:
    own = own_device(device)
    fits = own == CPU or device != "auto" or size < _SHARE * torch.cuda.mem_get_info(own)[0]
    return own if fits else "auto"
