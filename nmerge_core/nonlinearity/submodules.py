"""The submodules f of a decoder layer whose linearity is measured, as functions of weights.

On the base model's own hidden states they are

- attention: f(h) = attention(norm(h)), with h the residual stream entering the layer;
- mlp: f(h') = mlp(norm(h')), with h' the residual stream after the base model's attention, or h where the MLP reads
  beside it (parallel residuals, as in GPT-NeoX, Falcon and GPT-J);
- a neuron group g of the MLP: f(z) = Σ_{j∈g} φ_j(z) · down[:, j], with z what the base model's MLP reads (`groups`).

The norms are those before and, in some families, after the module (`form`). So the change of a norm counts as a change
of the submodule that it reads or writes for, of both where both read it, but not of a neuron group, whose parameters
are its rows of gate and up and its columns of down alone (NeuronMerge §2.4 and App. B leave this open). Where a norm
reads the sum with the residual stream (smaller OPT), f is what it writes: norm(h + attention(h)).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

Weights = dict[str, Tensor]
Groups = Mapping[int, Mapping[str, np.ndarray]]  # layer → name of the group → its neurons


@dataclass(frozen=True)
class Sublayer:
    """Modules of a decoder layer, by name, whose composition is added to the residual stream.

    Beside `module`, the attention or the first of the MLP, they are norms or the rest of the MLP. The norm `after_sum`
    reads the sum with the residual stream.
    """

    before: str | None
    module: str
    after: tuple[str, ...] = ()
    after_sum: str | None = None

    @property
    def reads(self) -> str:
        """The module whose input is the residual stream."""
        return self.before or self.module

    @property
    def names(self) -> tuple[str, ...]:
        """The modules in their order."""
        return tuple(name for name in (self.before, self.module, *self.after, self.after_sum) if name)


@dataclass(frozen=True)
class Form:
    """How a family's decoder layers are built: x = x + attention(x), then x = x + mlp(x); or both read the same x."""

    attention: Sublayer
    mlp: Sublayer


_FORMS = (
    # Qwen2, Qwen3, Llama, Mistral, Phi-3, OLMo, and mixtures of experts; Llama 4
    Form(Sublayer("input_layernorm", "self_attn"), Sublayer("post_attention_layernorm", "mlp")),
    Form(Sublayer("input_layernorm", "self_attn"), Sublayer("post_attention_layernorm", "feed_forward")),
    # Gemma 2, Gemma 3
    Form(
        Sublayer("input_layernorm", "self_attn", ("post_attention_layernorm",)),
        Sublayer("pre_feedforward_layernorm", "mlp", ("post_feedforward_layernorm",)),
    ),
    # OLMo 2
    Form(
        Sublayer(None, "self_attn", ("post_attention_layernorm",)),
        Sublayer(None, "mlp", ("post_feedforward_layernorm",)),
    ),
    # GLM-4; HyperCLOVA X; AFMoE
    Form(
        Sublayer("input_layernorm", "self_attn", ("post_self_attn_layernorm",)),
        Sublayer("post_attention_layernorm", "mlp", ("post_mlp_layernorm",)),
    ),
    Form(
        Sublayer("input_layernorm", "self_attn", ("post_norm1",)),
        Sublayer("post_attention_layernorm", "mlp", ("post_norm2",)),
    ),
    Form(
        Sublayer("input_layernorm", "self_attn", ("post_attention_layernorm",)),
        Sublayer("pre_mlp_layernorm", "mlp", ("post_mlp_layernorm",)),
    ),
    # Granite's mixtures of experts without a shared one; VaultGemma; MPT; ModernBERT's decoder
    Form(Sublayer("input_layernorm", "self_attn"), Sublayer("post_attention_layernorm", "block_sparse_moe")),
    Form(Sublayer("input_layernorm", "self_attn"), Sublayer("pre_feedforward_layernorm", "mlp")),
    Form(Sublayer("norm_1", "attn"), Sublayer("norm_2", "ffn")),
    # Apertus; LFM2, Bamba and Jamba, and Granite's hybrids without experts, with layers that have no attention
    Form(Sublayer("attention_layernorm", "self_attn"), Sublayer("feedforward_layernorm", "mlp")),
    Form(Sublayer("operator_norm", "self_attn"), Sublayer("ffn_norm", "feed_forward")),
    Form(Sublayer("operator_norm", "conv"), Sublayer("ffn_norm", "feed_forward")),
    Form(Sublayer("input_layernorm", "self_attn"), Sublayer("pre_ff_layernorm", "feed_forward")),
    Form(Sublayer("input_layernorm", "mamba"), Sublayer("pre_ff_layernorm", "feed_forward")),
    Form(Sublayer("input_layernorm", "self_attn"), Sublayer("post_attention_layernorm", "shared_mlp")),
    Form(Sublayer("input_layernorm", "mamba"), Sublayer("post_attention_layernorm", "shared_mlp")),
    Form(Sublayer("attn_norm", "attn"), Sublayer("mlp_norm", "mlp")),
    # Layers with linear attention among others: Qwen3-Next, Qwen3.5, OLMo hybrid
    Form(Sublayer("input_layernorm", "linear_attn"), Sublayer("post_attention_layernorm", "mlp")),
    # GPT-2
    Form(Sublayer("ln_1", "attn"), Sublayer("ln_2", "mlp")),
    # GPT-NeoX
    Form(Sublayer("input_layernorm", "attention"), Sublayer("post_attention_layernorm", "mlp")),
    # BLOOM, the first Falcon
    Form(Sublayer("input_layernorm", "self_attention"), Sublayer("post_attention_layernorm", "mlp")),
    # Falcon: 7B; 40B and later
    Form(Sublayer("input_layernorm", "self_attention"), Sublayer("input_layernorm", "mlp")),
    Form(Sublayer("ln_attn", "self_attention"), Sublayer("ln_mlp", "mlp")),
    # Phi, Cohere
    Form(Sublayer("input_layernorm", "self_attn"), Sublayer("input_layernorm", "mlp")),
    # GPT-J
    Form(Sublayer("ln_1", "attn"), Sublayer("ln_1", "mlp")),
    # OPT, most and 350M
    Form(
        Sublayer("self_attn_layer_norm", "self_attn"),
        Sublayer("final_layer_norm", "fc1", ("activation_fn", "fc2")),
    ),
    Form(
        Sublayer(None, "self_attn", after_sum="self_attn_layer_norm"),
        Sublayer(None, "fc1", ("activation_fn", "fc2"), "final_layer_norm"),
    ),
)


def form(layer: nn.Module) -> Form | None:
    """Return how a decoder layer is built, None where that is not known; modules without weights decide too."""
    parts = {name for name, module in layer.named_children() if not isinstance(module, nn.Dropout)}
    after_sum = not getattr(layer, "do_layer_norm_before", True)  # of OPT's layers, which have the same names
    return next(
        (
            known
            for known in _FORMS
            if parts == {*known.attention.names, *known.mlp.names} and bool(known.mlp.after_sum) == after_sum
        ),
        None,
    )


@dataclass(frozen=True)
class Inputs:
    """What the submodules of one layer read for one batch: n real tokens of the base model, float32."""

    states: Tensor  # (B, T, d_model), h
    arguments: Mapping[str, Any]  # of the attention, besides its hidden states
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


def submodules(layer: int, module: nn.Module, built: Form, weights: Sequence[Weights]) -> list[Submodule]:
    """Return a decoder layer's attention and its MLP.

    Args:
        layer: its number.
        module: the layer without weights.
        built: its form.
        weights: the layer's weights in the base model and in each fine-tune.
    """

    def submodule(kind: str, sublayer: Sublayer, output: Callable[[nn.Module, Weights, Inputs], Tensor]) -> Submodule:
        base, *models = (_select(sublayer.names, own) for own in weights)
        return Submodule(layer, kind, "", base, tuple(models), partial(output, _Composed(module, sublayer)))

    return [
        submodule("attention", built.attention, _attention_output),
        submodule("mlp", built.mlp, _mlp_output),
    ]


def adds_residual(module: nn.Module) -> bool:
    """Whether a module takes the residual stream and adds it itself, as BLOOM's do."""
    return "residual" in signature(module.forward).parameters


class _Composed(nn.Module):
    """f(x) = after(module(before(x))), the modules under their names in the layer.

    A module that adds the residual stream itself, as BLOOM's do, is given zeros, or what it reads where it adds that.
    """

    def __init__(self, layer: nn.Module, sublayer: Sublayer) -> None:
        super().__init__()
        self.sublayer = sublayer
        self.adds = adds_residual(layer.get_submodule(sublayer.module))
        self.adds_normed = getattr(layer, "apply_residual_connection_post_layernorm", False)
        for name in sublayer.names:
            self.add_module(name, layer.get_submodule(name))

    def forward(self, states: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        entering = states
        for name in self.sublayer.names:
            given = dict(arguments) if name == self.sublayer.module else {}
            if name == self.sublayer.module and self.adds:
                given["residual"] = states if self.adds_normed else torch.zeros_like(states)
            if name == self.sublayer.after_sum:
                states = entering + states
            output: Any = self.get_submodule(name)(states, **given)
            states = output[0] if isinstance(output, tuple | list) else output  # attention has its weights beside it
        return states


def _attention_output(attention: nn.Module, weights: Weights, inputs: Inputs) -> Tensor:
    return _call(attention, weights, inputs.states, inputs.arguments)[inputs.real]  # (n, d_model)


def _mlp_output(mlp: nn.Module, weights: Weights, inputs: Inputs) -> Tensor:
    return _call(mlp, weights, inputs.middle[None], {}).flatten(0, -2)  # (n, d_model)


def _call(module: nn.Module, weights: Weights, states: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    """Run a module at these weights, all of its own, and at its own buffers, as GPT-J's table of positions."""
    return functional_call(module, {**dict(module.named_buffers()), **weights}, (states, arguments), strict=True)


def _select(parts: Sequence[str], weights: Weights) -> Weights:
    return {name: weight for name, weight in weights.items() if name.split(".")[0] in parts}
