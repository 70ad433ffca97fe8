"""Read or silence neurons of a running model: hooks that are gone when their `with` block ends."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from nmerge_core.activations.experts import editing
from nmerge_core.architecture import Architecture, Mlp, MlpLayer
from nmerge_core.errors import InputError

Sink = Callable[[int, Tensor], None]
"""Takes a layer and the activation φ (B, T, d_ffn) of its neurons, in the model's dtype and on its device."""

Edit = Callable[[Mlp, Tensor, Tensor | slice], Tensor]
"""Takes an MLP, φ (…, d_ffn) of its neurons at some tokens, and which these are; returns the φ to go on with."""


@contextmanager
def record_activations(
    model: PreTrainedModel, architecture: Architecture, layers: Sequence[int], sink: Sink
) -> Iterator[None]:
    """Give φ of these layers to `sink` in every forward pass: the input of the matrix down (NeuronMerge §2.1).

    φ of an expert's neurons is 0 at the tokens that the router does not send there; it does not include the router's
    weight. All experts' φ of one layer and batch is held at a time.

    Raises:
        InputError: the model has no such layer.
    """
    with ExitStack() as stack:
        for layer in [_layer(architecture, number) for number in layers]:
            stack.enter_context(
                _recording_routed(model, layer, sink) if layer.routed else _recording(model, layer, sink)
            )
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
    with ExitStack() as stack:
        for number, indices in neurons.items():
            stack.enter_context(_silencing(model, _layer(architecture, number), np.asarray(indices, dtype=np.int64)))
        yield


def _layer(architecture: Architecture, layer: int) -> MlpLayer:
    if not 0 <= layer < len(architecture.layers):
        raise InputError(f"no layer {layer}: the model has layers 0 to {len(architecture.layers) - 1}")
    return architecture.layers[layer]


@contextmanager
def _silencing(model: PreTrainedModel, layer: MlpLayer, neurons: NDArray[np.int64]) -> Iterator[None]:
    if len(neurons) and not 0 <= neurons.min() <= neurons.max() < layer.d_ffn:
        raise InputError(
            f"layer {layer.layer} has neurons 0 to {layer.d_ffn - 1}, asked to knock out {neurons.tolist()}"
        )
    ends = {mlp: (neurons >= mlp.first) & (neurons < mlp.first + mlp.d_ffn) for mlp in layer.mlps}
    own = {mlp: torch.from_numpy(neurons[mine] - mlp.first) for mlp, mine in ends.items()}

    def silence(mlp: Mlp, phi: Tensor, tokens: Tensor | slice) -> Tensor:
        return phi.index_fill(-1, own[mlp].to(phi.device), 0.0)

    with _before_down(model, layer, silence):
        yield


@contextmanager
def _recording(model: PreTrainedModel, layer: MlpLayer, sink: Sink) -> Iterator[None]:
    def read(mlp: Mlp, phi: Tensor, tokens: Tensor | slice) -> Tensor:
        sink(layer.layer, phi)
        return phi

    with _before_down(model, layer, read):
        yield


@contextmanager
def _recording_routed(model: PreTrainedModel, layer: MlpLayer, sink: Sink) -> Iterator[None]:
    """Gather φ of all experts of a layer between the beginning and the end of its forward pass."""
    gathered: list[Tensor] = []
    shape: list[int] = []

    def begin(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shape[:] = inputs[0].shape[:-1]  # (B, T)
        gathered[:] = [inputs[0].new_zeros(inputs[0].shape[:-1].numel(), layer.d_ffn)]  # (B · T, d_ffn)

    def read(mlp: Mlp, phi: Tensor, tokens: Tensor | slice) -> Tensor:
        gathered[0][tokens, mlp.first : mlp.first + mlp.d_ffn] = phi.flatten(0, -2)
        return phi

    def end(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        sink(layer.layer, gathered.pop().view(*shape, layer.d_ffn))  # (B, T, d_ffn)

    block = _routed_block(model, layer)
    handles = [block.register_forward_pre_hook(begin), block.register_forward_hook(end)]
    try:
        with _before_down(model, layer, read):
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _before_down(model: PreTrainedModel, layer: MlpLayer, edit: Edit) -> Iterator[None]:
    def hook(mlp: Mlp) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        return lambda module, inputs: (edit(mlp, inputs[0], slice(None)), *inputs[1:])

    with ExitStack() as stack:
        for mlp in layer.mlps:
            if mlp.expert is None:
                stack.callback(_submodule(model, mlp.down).register_forward_pre_hook(hook(mlp)).remove)
        if layer.routed:
            experts = _routed_block(model, layer).get_submodule("experts")
            stack.enter_context(
                editing(model, experts, lambda expert, phi, tokens: edit(layer.mlps[expert], phi, tokens))
            )
        yield


def _submodule(model: PreTrainedModel, name: str) -> nn.Module:
    """Find a module by its name in the checkpoint, which may be that of the model's body alone (GPT-2)."""
    prefix = f"{model.base_model_prefix}."
    try:
        return model.get_submodule(name)
    except AttributeError:
        return model.get_submodule(prefix + name)


def _routed_block(model: PreTrainedModel, layer: MlpLayer) -> nn.Module:
    """Find the module that holds the router and the experts; families call it mlp or otherwise on disk."""
    return next(module for module in _submodule(model, layer.decoder_layer).modules() if hasattr(module, "experts"))
