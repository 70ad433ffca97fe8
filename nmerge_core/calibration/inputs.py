"""What the linear layers of a language model read, summed over tokens, one decoder layer in memory at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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

# Of the inputs x of a layer, (tokens, inputs): x xᵀ of each summed, or |x|.
SUMS: Mapping[str, Callable[[Tensor], Tensor]] = {"gram": lambda x: x.T @ x, "magnitude": lambda x: x.abs().sum(0)}


@torch.inference_mode()
def inputs(
    checkpoint: Checkpoint,
    batches: Sequence[Batch],
    kind: str,
    folder: Path,
    device: str,
    stage: str,
    progress: Progress,
) -> tuple[list[str], dict[str, str]]:
    """Write the sum over the real tokens of what `SUMS` makes of the input x of each linear layer.

    That is G = Σ x xᵀ for RegMean (Jin et al., ICLR 2023), Σ |x| for AIM (Nobari et al., 2025).

    Layers that read the same tensor (q, k and v; gate and up) share one sum. An untied head counts among them,
    routed experts do not. All is computed in float32, batches added in order. In memory: a decoder layer with its
    sums, or what lies outside the layers, and the hidden states of all batches.

    Args:
        checkpoint: the model.
        batches: the texts.
        kind: gram or magnitude.
        folder: where to write safetensors files, one a layer; it exists.
        device: auto, cpu, cuda, …
        stage: what progress is told of.
        progress: told after each batch at each layer, and asked to stop within.

    Returns:
        The names of the files, and for each weight the name of its sum.

    Raises:
        InputError: the model cannot be run, or an input of a linear layer is not finite or not one vector per token.
    """
    summed = SUMS[kind]
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
        sums: dict[str, Tensor] = {}
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
                    _add(sums, tensor, summed, x, kept)
            progress(stage, index * len(batches) + number + 1, total, "batches")
        files.append(f"layer-{index:05}.safetensors")
        _write(sums, folder / files[-1], checkpoint)
    if head := model.head:
        outer = model.weights(None)
        sums = {}
        for batch, own, kept in zip(batches, states, real, strict=True):
            _add(sums, head, summed, model.outside(outer, batch.tokens, own).output, kept)
        names[head] = head
        files.append("head.safetensors")
        _write(sums, folder / files[-1], checkpoint)
    return files, names


def _write(sums: dict[str, Tensor], file: Path, checkpoint: Checkpoint) -> None:
    for name, each in sums.items():
        if not torch.isfinite(each).all():
            raise InputError(
                f"{checkpoint.reference}, tensor {name}: expected finite inputs, found NaN or infinite ones; check the "
                "model's weights"
            )
    save_tensors({name: each.cpu() for name, each in sums.items()}, file)


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


def _add(sums: dict[str, Tensor], name: str, summed: Callable[[Tensor], Tensor], inputs: Tensor, real: Tensor) -> None:
    """Add what is summed of the real tokens of inputs (B, T, inputs)."""
    if inputs.shape[:-1].numel() == real.numel():  # OPT and routers read (B · T, inputs)
        inputs = inputs.view(*real.shape, inputs.shape[-1])
    if inputs.shape[:-1] != real.shape:
        raise InputError(
            f"{name}: expected an input vector for each of the {list(real.shape)} tokens, found {list(inputs.shape)}; "
            "the linear layers of this family cannot be measured yet"
        )
    found = summed(inputs[real])  # of (tokens, inputs)
    sums[name] = found if name not in sums else sums[name].add_(found)
