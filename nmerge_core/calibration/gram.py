"""Gram matrices of what the linear layers of a language model read, one decoder layer in memory at a time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from nmerge_core.checkpoints import Checkpoint
from nmerge_core.errors import InputError
from nmerge_core.folders import save_tensors
from nmerge_core.layerwise import LayerwiseModel
from nmerge_core.progress import Progress
from nmerge_core.text_samples import Batch


@torch.inference_mode()
def gram(
    checkpoint: Checkpoint, batches: Sequence[Batch], folder: Path, device: str, stage: str, progress: Progress
) -> tuple[list[str], dict[str, str]]:
    """Write G = Σ x xᵀ, over the real tokens, of the input x of each linear layer (RegMean, Jin et al., ICLR 2023).

    Layers that read the same tensor (q, k and v; gate and up) share one matrix. An untied head counts among them,
    routed experts do not. All is computed in float32, batches added in order. In memory: a decoder layer with its Gram
    matrices, or what lies outside the layers, and the hidden states of all batches.

    Args:
        checkpoint: the model.
        batches: the texts.
        folder: where to write safetensors files, one a layer; it exists.
        device: auto, cpu, cuda, …
        stage: what progress is told of.
        progress: told after each batch at each layer, and asked to stop within.

    Returns:
        The names of the files, and for each weight the name of its matrix.

    Raises:
        InputError: the model cannot be run, or an input of a linear layer is not finite or not one vector per token.
    """
    model = LayerwiseModel(checkpoint, device)
    real = [batch.real.to(model.device) for batch in batches]
    outer = model.weights(None)
    outsides = [model.outside(outer, batch.tokens) for batch in batches]
    del outer
    states = [outside.entering for outside in outsides]
    calls = [outside.calls for outside in outsides]
    files, names = [], {}
    total = len(model.layers) * len(batches)
    progress(stage, 0, total, "batches")
    for index, layer in enumerate(model.layers):
        weights, inside = model.weights(index), model.plain_names(index)
        grams: dict[str, Tensor] = {}
        for number, kept in enumerate(real):
            with _inputs(layer) as seen:
                states[number] = model.run(index, weights, states[number], calls[number][index])
            shared: dict[int, str] = {}  # the first reader of each tensor
            for module, x in seen.items():
                tensor = inside.get(f"{module}.weight")
                if tensor is None:  # stored in another form
                    continue
                first = names[tensor] = shared.setdefault(id(x), tensor)
                if first == tensor:
                    _add(grams, tensor, x, kept)
            progress(stage, index * len(batches) + number + 1, total, "batches")
        files.append(f"layer-{index:05}.safetensors")
        _write(grams, folder / files[-1], checkpoint)
    if head := model.head:
        outer = model.weights(None)
        grams = {}
        for batch, own, kept in zip(batches, states, real, strict=True):
            _add(grams, head, model.outside(outer, batch.tokens, own).output, kept)
        names[head] = head
        files.append("head.safetensors")
        _write(grams, folder / files[-1], checkpoint)
    return files, names


def _write(grams: dict[str, Tensor], file: Path, checkpoint: Checkpoint) -> None:
    for name, matrix in grams.items():
        if not torch.isfinite(matrix).all():
            raise InputError(
                f"{checkpoint.reference}, tensor {name}: expected finite inputs, found NaN or infinite ones; check the "
                "model's weights"
            )
    save_tensors({name: matrix.cpu() for name, matrix in grams.items()}, file)


@contextmanager
def _inputs(layer: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Note what each linear layer inside reads, by the name of its module, while the block runs."""
    seen: dict[str, Tensor] = {}
    linear = [(name, module) for name, module in layer.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    hooks = [module.register_forward_pre_hook(partial(_note, seen, name)) for name, module in linear]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _note(seen: dict[str, Tensor], name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
    seen[name] = args[0]


def _add(grams: dict[str, Tensor], name: str, inputs: Tensor, real: Tensor) -> None:
    """Add Σ x xᵀ over the real tokens of inputs (B, T, inputs)."""
    if inputs.shape[:-1].numel() == real.numel():  # OPT and routers read (B · T, inputs)
        inputs = inputs.view(*real.shape, inputs.shape[-1])
    if inputs.shape[:-1] != real.shape:
        raise InputError(
            f"{name}: expected an input vector for each of the {list(real.shape)} tokens, found {list(inputs.shape)}; "
            "the linear layers of this family cannot be measured yet"
        )
    x = inputs[real]  # (tokens, inputs)
    product = x.T @ x
    grams[name] = product if name not in grams else grams[name].add_(product)
