"""Read or silence neurons of a running model: hooks that are gone when their `with` block ends."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from nmerge_core.architecture import Architecture
from nmerge_core.errors import InputError

Sink = Callable[[int, Tensor], None]
"""Takes a layer and the activation φ (B, T, d_ffn) of its neurons, in the model's dtype and on its device."""


@contextmanager
def record_activations(
    model: PreTrainedModel, architecture: Architecture, layers: Sequence[int], sink: Sink
) -> Iterator[None]:
    """Give φ of these layers to `sink` in every forward pass: the input of the matrix down (NeuronMerge §2.1).

    Raises:
        InputError: the model has no such layer.
    """

    def reader(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: sink(layer, inputs[0])

    with _before_down(model, architecture, {layer: reader(layer) for layer in layers}):
        yield


@contextmanager
def knock_out(
    model: PreTrainedModel, architecture: Architecture, neurons: Mapping[int, Sequence[int] | NDArray[np.integer]]
) -> Iterator[None]:
    """Deactivate neurons: φ of these neurons is 0 in every forward pass, as if their weights were (NeuronMerge §2.3).

    Args:
        model: the running model.
        architecture: its architecture.
        neurons: neuron indices by layer.

    Raises:
        InputError: the model has no such layer or neuron.
    """

    def silencer(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        indices = torch.as_tensor(np.asarray(neurons[layer], dtype=np.int64))

        def silence(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            d_ffn = inputs[0].shape[-1]
            if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < d_ffn:
                raise InputError(f"layer {layer} has neurons 0 to {d_ffn - 1}, asked to knock out {indices.tolist()}")
            return (inputs[0].index_fill(-1, indices.to(inputs[0].device), 0.0), *inputs[1:])

        return silence

    with _before_down(model, architecture, {layer: silencer(layer) for layer in neurons}):
        yield


@contextmanager
def _before_down(
    model: PreTrainedModel, architecture: Architecture, hooks: Mapping[int, Callable[..., object]]
) -> Iterator[None]:
    handles = []
    try:
        for layer, hook in hooks.items():
            if not 0 <= layer < len(architecture.layers):
                raise InputError(f"no layer {layer}: the model has layers 0 to {len(architecture.layers) - 1}")
            down = model.get_submodule(architecture.layers[layer].down_module)
            handles.append(down.register_forward_pre_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()
