"""What the linear layers of a language model read, summed over tokens, one decoder layer in memory at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from nmerge_core.checkpoints import Checkpoint
from nmerge_core.corpus.text_samples import Batch
from nmerge_core.errors import InputError
from nmerge_core.files.folders import save_tensors
from nmerge_core.layerwise import LayerwiseModel, Weights
from nmerge_core.progress import Progress

_COLUMNS = 1024  # of a Gram matrix that are computed at once


def _gram(x: Tensor) -> Tensor:
    """Return Σ x xᵀ of x (tokens, inputs): what is on and below the diagonal is computed, the rest mirrored."""
    count = x.shape[1]
    found = x.new_empty(count, count)
    for start in range(0, count, _COLUMNS):
        stop = min(start + _COLUMNS, count)
        torch.mm(x[:, start:].T, x[:, start:stop], out=found[start:, start:stop])
        found[start:stop, stop:] = found[stop:, start:stop].T
    return found


# Of the inputs x of a layer, (tokens, inputs): x xᵀ of each summed, or |x|.
SUMS: Mapping[str, Callable[[Tensor], Tensor]] = {"gram": _gram, "magnitude": lambda x: x.abs().sum(0)}


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
    model = LayerwiseModel(checkpoint, device)
    walk = Walk(model, batches, model.weights(None), SUMS[kind])
    files, names = [], dict[str, str]()
    done, total = 0, len(model.layers) * len(batches)

    def tick() -> None:
        nonlocal done
        done += 1
        progress(stage, done, total, "batches")

    progress(stage, 0, total, "batches")
    for layer in range(len(model.layers)):
        found = walk.read(layer, model.weights(layer), tick)
        walk.states = found.leaving
        names |= found.of_weights
        files.append(f"layer-{layer:05}.safetensors")
        write_sums(found.sums, folder / files[-1], checkpoint.reference)
    if model.head:
        names[model.head] = model.head
        files.append("head.safetensors")
        write_sums(walk.read_head(model.weights(None)), folder / files[-1], checkpoint.reference)
    return files, names


@dataclass(frozen=True)
class Read:
    """What the linear layers of one decoder layer read.

    Attributes:
        sums: by the name of the first weight that reads an input, what is summed of it.
        of_weights: the name of the sum of each weight.
        leaving: the states that leave the layer, (B, T, d_model) of each batch.
    """

    sums: dict[str, Tensor]
    of_weights: dict[str, str]
    leaving: list[Tensor]


class Walk:
    """Batches of texts on their way through the layers of a model; `states` (B, T, d_model) enter the next one."""

    def __init__(
        self, model: LayerwiseModel, batches: Sequence[Batch], outer: Weights, summed: Callable[[Tensor], Tensor]
    ):
        """Begin with the embeddings of `outer`, weights outside the layers; `summed` is one of `SUMS`."""
        self.model, self._batches, self._summed = model, batches, summed
        self._real = [batch.real.to(model.device) for batch in batches]
        outsides = [model.outside(outer, batch.tokens) for batch in batches]
        self.states = [outside.entering for outside in outsides]
        self._calls = [outside.calls for outside in outsides]

    def read(self, layer: int, weights: Weights, tick: Callable[[], None]) -> Read:
        """Sum what the linear layers of a layer read, at these weights; `tick` is called after each batch."""
        inside, found = self.model.plain_names(layer), Read({}, {}, [])
        for states, calls, real in zip(self.states, self._calls, self._real, strict=True):
            with _inputs(self.model.layers[layer]) as seen:
                found.leaving.append(self.model.run(layer, weights, states, calls[layer]))
            shared: dict[int, str] = {}  # the first reader of each tensor
            for module, x in seen.items():
                tensor = inside.get(f"{module}.weight")
                if tensor is None:  # stored in another form
                    continue
                first = found.of_weights[tensor] = shared.setdefault(id(x), tensor)
                if first == tensor:
                    _add(found.sums, tensor, self._summed, x, real)
            tick()
        return found

    def go(self, layer: int, weights: Weights) -> None:
        """Take the states through a layer at these weights."""
        self.states = [
            self.model.run(layer, weights, states, calls[layer])
            for states, calls in zip(self.states, self._calls, strict=True)
        ]

    def read_head(self, outer: Weights) -> dict[str, Tensor]:
        """Sum what the untied head reads of the states, at these weights outside the layers."""
        sums: dict[str, Tensor] = {}
        for batch, states, real in zip(self._batches, self.states, self._real, strict=True):
            _add(
                sums, self.model.head or "", self._summed, self.model.outside(outer, batch.tokens, states).output, real
            )
        return sums


def write_sums(sums: Mapping[str, Tensor], file: Path, reference: str) -> None:
    """Write sums of the model of a reference to a file; raises InputError where one is not finite."""
    for name, each in sums.items():
        if not torch.isfinite(each).all():
            raise InputError(
                f"{reference}, tensor {name}: expected finite inputs, found NaN or infinite ones; check the "
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
