"""Read or silence neurons of a running model, or read its layers: hooks that are gone when their `with` block ends."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from nmerge_core.activations.experts import editing
from nmerge_core.architecture import LAYER, Architecture, Mlp, MlpLayer, NeuronMap
from nmerge_core.checkpoints.conversion import Conversion
from nmerge_core.errors import InputError

Sink = Callable[[int, Tensor], None]
"""Takes a layer and the activation φ (B, T, d_ffn) of its neurons, or what the layer puts out (B, T, d_model), in the
model's dtype and on its device."""

Edit = Callable[[Mlp, Tensor, Tensor | slice], Tensor]
"""Takes an MLP, φ (…, d_ffn) of its neurons at some tokens, and which these are; returns the φ to go on with."""


@contextmanager
def record_activations(
    model: PreTrainedModel, architecture: Architecture, layers: Sequence[int], sink: Sink
) -> Iterator[None]:
    """Give φ of these layers to `sink` in every forward pass: the input of the matrix down (NeuronMerge §2.1).

    φ of an expert's neurons is 0 at the tokens that the router does not send there; it does not include the router's
    weight, but where this scales what the expert reads (Llama 4). All experts' φ of one layer and batch is held at a
    time.

    Raises:
        InputError: the model has no such layer.
    """
    places = Conversion(model)
    with ExitStack() as stack:
        for layer in [_layer(architecture, number) for number in layers]:
            stack.enter_context(_recording(model, places, layer, sink))
        yield


@contextmanager
def record_gates(
    model: PreTrainedModel, architecture: Architecture, layers: Sequence[int], sink: Sink
) -> Iterator[None]:
    """Give gate · z (B, T, d_ffn), before φ of the same layer, to `sink` in every forward pass.

    Layers without a gate are left out, and those of several MLPs, whose experts read other tokens each.

    Raises:
        InputError: the model has no such layer.
    """
    places = Conversion(model)

    def hook(gate: NeuronMap) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda module, inputs, output: sink(gate.layer, output[..., gate.start : gate.stop : gate.step])

    with ExitStack() as stack:
        for layer in [_layer(architecture, number) for number in layers]:
            gates = [part for part in layer.maps if part.matrix == "gate"] if len(layer.mlps) == 1 else []
            for gate in gates:
                name, converter = places.loaded(gate.tensor)
                if converter is None and not layer.routed:
                    module = model.get_submodule(name.rpartition(".")[0])
                    stack.callback(module.register_forward_hook(hook(gate)).remove)
        yield


@contextmanager
def record_hidden_states(model: PreTrainedModel, architecture: Architecture, sink: Sink) -> Iterator[None]:
    """Give what every decoder layer puts out, (B, T, d_model), to `sink` in every forward pass.

    Raises:
        InputError: the model's layers are not known.
    """
    places = Conversion(model)

    def hook(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor | Sequence[Tensor]], None]:
        return lambda module, inputs, output: sink(layer, output if isinstance(output, Tensor) else output[0])

    with ExitStack() as stack:
        for layer in architecture.layers:
            module = _decoder_layer(model, places, layer)
            stack.callback(module.register_forward_hook(hook(layer.layer)).remove)
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
    places = Conversion(model)
    with ExitStack() as stack:
        for number, indices in neurons.items():
            layer, own = _layer(architecture, number), np.asarray(indices, dtype=np.int64)
            stack.enter_context(_silencing(model, places, layer, own))
        yield


def _layer(architecture: Architecture, layer: int) -> MlpLayer:
    if not 0 <= layer < len(architecture.layers):
        raise InputError(f"no layer {layer}: the model has layers 0 to {len(architecture.layers) - 1}")
    return architecture.layers[layer]


@contextmanager
def _silencing(
    model: PreTrainedModel, places: Conversion, layer: MlpLayer, neurons: NDArray[np.int64]
) -> Iterator[None]:
    if len(neurons) and not 0 <= neurons.min() <= neurons.max() < layer.d_ffn:
        raise InputError(
            f"layer {layer.layer} has neurons 0 to {layer.d_ffn - 1}, asked to knock out {neurons.tolist()}"
        )
    ends = {mlp: (neurons >= mlp.first) & (neurons < mlp.first + mlp.d_ffn) for mlp in layer.mlps}
    own = {mlp: torch.from_numpy(neurons[mine] - mlp.first) for mlp, mine in ends.items()}

    def silence(mlp: Mlp, phi: Tensor, tokens: Tensor | slice) -> Tensor:
        return phi.index_fill(-1, own[mlp].to(phi.device), 0.0)

    with _before_down(model, places, layer, silence):
        yield


@contextmanager
def _recording(model: PreTrainedModel, places: Conversion, layer: MlpLayer, sink: Sink) -> Iterator[None]:
    """Give φ to the sink; that of several MLPs is gathered between the beginning and the end of the layer."""
    gathered: list[Tensor] = []
    shape: list[int] = []

    def begin(module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        shape[:] = (inputs[0] if inputs else named["hidden_states"]).shape[:2]  # (B, T), of several streams too
        gathered.clear()

    def read(mlp: Mlp, phi: Tensor, tokens: Tensor | slice) -> Tensor:
        if len(layer.mlps) == 1:
            sink(layer.layer, phi.view(*shape, layer.d_ffn) if phi.dim() == 2 else phi)  # OPT's is (B · T, d_ffn)
            return phi
        if not gathered:
            gathered.append(phi.new_zeros(prod(shape), layer.d_ffn))  # (B · T, d_ffn)
        gathered[0][tokens, mlp.first : mlp.first + mlp.d_ffn] = phi.flatten(0, -2)
        return phi

    def end(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        if gathered:
            sink(layer.layer, gathered.pop().view(*shape, layer.d_ffn))  # (B, T, d_ffn)

    decoder_layer = _decoder_layer(model, places, layer)
    handles = [
        decoder_layer.register_forward_pre_hook(begin, with_kwargs=True),
        decoder_layer.register_forward_hook(end),
    ]
    try:
        with _before_down(model, places, layer, read):
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _before_down(model: PreTrainedModel, places: Conversion, layer: MlpLayer, edit: Edit) -> Iterator[None]:
    def hook(mlp: Mlp) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        return lambda module, inputs: (edit(mlp, inputs[0], slice(None)), *inputs[1:])

    stacks: dict[str, nn.Module] = {}
    with ExitStack() as stack:
        for mlp in layer.mlps:
            name, _, _ = places.loaded(mlp.down)[0].rpartition(".")
            module = model.get_submodule(name)
            if mlp.expert is None:
                stack.callback(module.register_forward_pre_hook(hook(mlp)).remove)
            else:
                stacks[name] = module
        for experts in stacks.values():
            stack.enter_context(
                editing(model, experts, lambda expert, phi, tokens: edit(layer.mlps[expert], phi, tokens))
            )
        yield


def _decoder_layer(model: PreTrainedModel, places: Conversion, layer: MlpLayer) -> nn.Module:
    """Find the module of a layer, which may have another name than in the checkpoint."""
    found = LAYER.match(places.loaded(layer.mlps[0].down)[0])
    assert found, layer.decoder_layer
    return model.get_submodule(f"{found['tower']}.{found['number']}")
