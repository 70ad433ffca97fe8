"""The submodules f of a decoder layer whose linearity is measured, as functions of weights.

On the base model's own hidden states they are

- attention: f(h) = self_attn(input_layernorm(h)), with h the residual stream entering the layer;
- mlp: f(h') = mlp(post_attention_layernorm(h')), with h' the residual stream after the base model's attention;
- a neuron group g of the MLP: f(z) = Σ_{j∈g} φ_j(z) · down[:, j], with z the base model's post_attention_layernorm(h').

So the change of a norm counts as a change of the submodule that reads it, but not of a neuron group, whose parameters
are its rows of gate and up and its columns of down alone (NeuronMerge §2.4 and App. B leave this open).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import linear

Weights = dict[str, Tensor]
Groups = Mapping[int, Mapping[str, np.ndarray]]  # layer → name of the group → its neurons

ATTENTION = ("input_layernorm", "self_attn")
MLP = ("post_attention_layernorm", "mlp")


@dataclass(frozen=True)
class Inputs:
    """What the submodules of one layer read for one batch: n real tokens of the base model, float32."""

    states: Tensor  # (B, T, d_model), h
    arguments: Mapping[str, Any]  # of self_attn, besides its hidden states
    middle: Tensor  # (n, d_model), h'
    normed: Tensor  # (n, d_model), z
    real: Tensor  # (B, T) bool


Output = Callable[[Weights, Inputs], Tensor]


@dataclass(frozen=True)
class Submodule:
    """A submodule f of one layer: `output(weights, inputs)` is f at these weights, (n, d_model) float32."""

    layer: int
    kind: str  # attention, mlp or group
    group: str  # name of the neuron group, or ""
    base: Weights
    models: tuple[Weights, ...]  # in the order of the fine-tunes
    output: Output


def submodules(
    layer: int, module: nn.Module, weights: Sequence[Weights], groups: Mapping[str, np.ndarray]
) -> list[Submodule]:
    """Return a decoder layer's attention, its MLP and its neuron groups, in this order.

    Args:
        layer: its number.
        module: the layer without weights.
        weights: the layer's weights in the base model and in each fine-tune; grouped neurons are copied from them.
        groups: name of each group and its neurons.
    """

    def submodule(kind: str, group: str, choose: Callable[[Weights], Weights], output: Output) -> Submodule:
        base, *models = (choose(own) for own in weights)
        return Submodule(layer, kind, group, base, tuple(models), output)

    activation = module.get_submodule("mlp.act_fn")
    return [
        submodule("attention", "", partial(_select, ATTENTION), partial(_attention_output, _Attention(module))),
        submodule("mlp", "", partial(_select, MLP), partial(_mlp_output, _Mlp(module))),
        *(
            submodule("group", group, partial(_neurons, torch.tensor(neurons)), partial(_group_output, activation))
            for group, neurons in groups.items()
        ),
    ]


class _Attention(nn.Module):
    """f(h) = self_attn(input_layernorm(h))."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.input_layernorm = layer.get_submodule("input_layernorm")
        self.self_attn = layer.get_submodule("self_attn")

    def forward(self, states: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        return self.self_attn(hidden_states=self.input_layernorm(states), **arguments)[0]


class _Mlp(nn.Module):
    """f(h') = mlp(post_attention_layernorm(h'))."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.post_attention_layernorm = layer.get_submodule("post_attention_layernorm")
        self.mlp = layer.get_submodule("mlp")

    def forward(self, states: Tensor) -> Tensor:
        return self.mlp(self.post_attention_layernorm(states))


def _attention_output(attention: nn.Module, weights: Weights, inputs: Inputs) -> Tensor:
    output = functional_call(attention, weights, (inputs.states, inputs.arguments), strict=True)  # (B, T, d_model)
    return output[inputs.real]  # (n, d_model)


def _mlp_output(mlp: nn.Module, weights: Weights, inputs: Inputs) -> Tensor:
    return functional_call(mlp, weights, (inputs.middle,), strict=True)  # (n, d_model)


def _group_output(activation: Callable[[Tensor], Tensor], weights: Weights, inputs: Inputs) -> Tensor:
    gate = linear(inputs.normed, weights["gate_proj.weight"], weights.get("gate_proj.bias"))  # (n, neurons)
    up = linear(inputs.normed, weights["up_proj.weight"], weights.get("up_proj.bias"))  # (n, neurons)
    return linear(activation(gate) * up, weights["down_proj.weight"])  # (n, d_model)


def _select(parts: Sequence[str], weights: Weights) -> Weights:
    return {name: weight for name, weight in weights.items() if name.split(".")[0] in parts}


def _neurons(neurons: Tensor, weights: Weights) -> Weights:
    """Keep these neurons of the MLP; the bias of down belongs to none."""
    kept = {}
    for name, weight in weights.items():
        match name.split("."):
            case ["mlp", "gate_proj" | "up_proj" as matrix, kind]:
                kept[f"{matrix}.{kind}"] = weight[neurons.to(weight.device)]
            case ["mlp", "down_proj", "weight"]:
                kept["down_proj.weight"] = weight[:, neurons.to(weight.device)].contiguous()
    return kept
