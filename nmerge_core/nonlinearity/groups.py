"""Groups of an MLP's neurons as submodules: f(z) = Σ_{j∈g} φ_j(z) · down[:, j], a function of these neurons' weights.

Of routed experts φ is weighted as the base model's router does at z, wherever the weights of the neurons come from: the
router is no neuron's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import linear

from nmerge_core.activations.hooks import knock_out
from nmerge_core.activations.store import open_classification
from nmerge_core.architecture import Architecture, Matrix, MlpLayer
from nmerge_core.checkpoints import Checkpoint
from nmerge_core.layerwise import LayerwiseModel
from nmerge_core.nonlinearity.submodules import Form, Groups, Inputs, Output, Submodule, Weights

_ACTIVATIONS = ("act_fn", "activation_fn", "act", "gelu_impl")


def read_groups(folder: str, base: Checkpoint) -> Groups:
    """Read the neurons of each category from a classification of the base model.

    Raises:
        InputError: it is of another model.
    """
    classification = open_classification(folder)
    classification.check_neurons_of(base.reference, base.architecture)
    return {
        layer: {category: rows["neuron"].to_numpy() for category, rows in own.groupby("category")}
        for layer, own in classification.neurons().groupby("layer")
    }


def neuron_groups(
    model: LayerwiseModel,
    architecture: Architecture,
    layer: MlpLayer,
    built: Form,
    weights: Sequence[Weights],
    groups: Mapping[str, np.ndarray],
) -> list[Submodule]:
    """Return neuron groups of one layer.

    Args:
        model: the base model, layer by layer.
        architecture: its architecture.
        layer: the layer's neurons.
        built: the layer's form.
        weights: the layer's weights in the base model and in each fine-tune. Of an MLP whose activation is a module
            grouped neurons are copied from them and run by themselves; any other, and one of routed experts, is run
            whole with its other neurons silent.
        groups: name of each group and its neurons.
    """
    loaded = {stored: name for name, stored in model.plain_names(layer.layer).items()}
    activation = _activation(model.layers[layer.layer], built, weights[0])
    apart = not layer.routed and all(part.tensor in loaded for part in layer.maps)
    found = []
    for group, neurons in groups.items():
        choose: Callable[[Weights], Weights]
        output: Output
        if activation is None or not apart:
            names = model.made_of(layer.layer, {part.tensor for part in layer.maps})
            silent = np.setdiff1d(np.arange(layer.d_ffn), neurons)
            choose = partial(_named, names)
            output = partial(_whole_output, model, architecture, layer.layer, built.mlp.module, silent, weights[0])
        else:
            choose = partial(_neurons, layer, architecture.matrix, loaded, torch.tensor(neurons))
            output = Neurons(activation)
        base, *models = (choose(own) for own in weights)
        found.append(Submodule(layer.layer, "group", group, base, tuple(models), output))
    return found


def _activation(layer: nn.Module, built: Form, base: Weights) -> Callable[[Tensor], Tensor] | None:
    """Return the MLP's activation, None where it is no module.

    Parameters of its own (Apertus) are no neuron's: they stay as in the base model.
    """
    modules = dict(layer.named_modules())
    names = (f"{place}{name}" for place in (f"{built.mlp.module}.", "") for name in _ACTIVATIONS)
    if (own := next((name for name in names if name in modules), None)) is None:
        return None
    module = modules[own]
    held = {name: base[f"{own}.{name}"] for name, _ in module.named_parameters()} | dict(module.named_buffers())
    return lambda states: functional_call(module, held, (states,))


@dataclass(frozen=True)
class Neurons:
    """The function of some neurons of an MLP without routed experts."""

    activation: Callable[[Tensor], Tensor]

    def phi(self, weights: Weights, inputs: Inputs) -> Tensor:
        """Return φ of each, (n, neurons)."""
        up = linear(inputs.normed, weights["up"], weights.get("up bias"))  # (n, neurons)
        if "gate" not in weights:
            return self.activation(up)
        return self.activation(linear(inputs.normed, weights["gate"], weights.get("gate bias"))) * up

    def __call__(self, weights: Weights, inputs: Inputs) -> Tensor:
        """Return Σ_j φ_j · down[:, j], (n, d_model)."""
        return linear(self.phi(weights, inputs), weights["down"])


def _neurons(
    layer: MlpLayer, matrix: Callable[[str], Matrix], loaded: Mapping[str, str], neurons: Tensor, weights: Weights
) -> Weights:
    """Return rows of gate and up (neurons, d_model), their biases, and columns of down (d_model, neurons)."""
    kept = {}
    for part in layer.maps:
        oriented, weight = matrix(part.tensor), weights[loaded[part.tensor]]
        rows = (weight.T if oriented.transposed else weight)[part.start : part.stop : part.step]
        own = (neurons - part.first).to(weight.device)
        name = part.matrix if oriented.neuronal else f"{part.matrix} bias"
        kept[name] = rows[own] if part.axis == 0 else rows[:, own].contiguous()
    return kept


def _named(names: set[str], weights: Weights) -> Weights:
    return {name: weights[name] for name in sorted(names)}


def _whole_output(
    model: LayerwiseModel,
    architecture: Architecture,
    layer: int,
    module: str,
    silent: np.ndarray,
    base: Weights,
    weights: Weights,
    inputs: Inputs,
) -> Tensor:
    """Run the whole MLP with φ of all other neurons 0, and what is no neuron's as in the base model."""
    prefix = f"{module}."
    own = {name.removeprefix(prefix): value for name, value in (base | weights).items() if name.startswith(prefix)}
    mlp = model.layers[layer].get_submodule(module)
    with knock_out(model.model, architecture, {layer: silent}):
        output = functional_call(mlp, {**dict(mlp.named_buffers()), **own}, inputs.normed[None], strict=True)
    return (output[0] if isinstance(output, tuple) else output).flatten(0, -2)  # (n, d_model)
