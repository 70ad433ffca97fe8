"""The submodules of every family whose layers can be measured, against whole decoder layers with exchanged weights."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.nonlinearity.decoder import Decoder
from nmerge_core.text_samples import pack
from tests.families import FAMILIES, D, F, Family, family_of

MEASURED = [family for family in FAMILIES if family.auto == "AutoModelForCausalLM"]
_SMALL = {"vocab_size": 257, "hidden_size": D, "intermediate_size": F, "num_hidden_layers": 2, "num_attention_heads": 4}


def changed(title: str, **settings: Any) -> Family:
    """A family with other settings: its layers are wired otherwise."""
    family = family_of(title)
    return replace(family, title=f"{title}, {settings}", settings={**family.settings, **settings})


VARIANTS = [
    changed("GPT-NeoX", use_parallel_residual=False),
    changed("Falcon", parallel_attn=False, alibi=True),
    changed("Falcon", new_decoder_architecture=True),
    changed("BLOOM", apply_residual_connection_post_layernorm=True),
    changed("OPT", do_layer_norm_before=False),
    replace(family_of("Llama"), title="Cohere", config="CohereConfig", settings=_SMALL),
]
# Layers in which a norm reads what the attention gives, and nothing else does.
NORMED = {
    "OPT, {'do_layer_norm_before': False}": "final_layer_norm",
    "BLOOM, {'apply_residual_connection_post_layernorm': True}": "post_attention_layernorm",
}
# The attention's last matrix in layers whose MLP reads beside the attention.
BESIDE = {
    "GPT-NeoX": "attention.dense",
    "Falcon": "self_attention.dense",
    "Falcon, {'new_decoder_architecture': True}": "self_attention.dense",
    "GPT-J": "attn.out_proj",
    "Cohere": "self_attn.o_proj",
}
# Of a mixture of experts: the second matrices, and what is a neuron's.
SECOND = re.compile(r"(?:mlp|feed_forward)\..*down_proj(?:\.weight|_bias)?$")
NEURONS = re.compile(r"(?:mlp|feed_forward)\..*(?:(?:gate_up|gate|up|down)_proj(?:\.weight)?|gate_up_proj_bias)$")
TOKENS = [[5, 9, 200, 31, 8], [7, 7, 80, 2, 6]]


class Whole:
    """A model whose decoder layers are run as transformers runs them, with any weights."""

    def __init__(self, folder: str) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.layers: Any = next(m for name, m in self.model.named_modules() if name.endswith((".layers", ".h")))
        self.calls: list = []
        for layer in self.layers:
            layer.register_forward_pre_hook(
                lambda module, args, given: self.calls.append((args, given)), with_kwargs=True
            )
        self.model(torch.tensor(TOKENS), use_cache=False)

    def run(self, layer: int, weights: dict) -> torch.Tensor:
        args, given = self.calls[layer]
        output = torch.func.functional_call(self.layers[layer], weights, args, given)
        return output[0] if isinstance(output, tuple) else output

    def mlp(self, layer: int, weights: dict, z: torch.Tensor) -> torch.Tensor:
        """What a mixture of experts makes of z (1, n, d_model) with the layer's weights."""
        name = "mlp" if hasattr(self.layers[layer], "mlp") else "feed_forward"
        own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
        output = torch.func.functional_call(self.layers[layer].get_submodule(name), own, z)
        return output[0] if isinstance(output, tuple) else output


def of_mlp(layer: Any, z: torch.Tensor) -> torch.Tensor:
    """What the MLP of a layer makes of what it reads."""
    mlp = getattr(layer, "mlp", None) or getattr(layer, "feed_forward", None)
    if mlp is None:
        return layer.fc2(layer.activation_fn(layer.fc1(z)))
    return mlp(z, torch.zeros_like(z)) if hasattr(mlp, "gelu_impl") else mlp(z)


@pytest.mark.parametrize("family", MEASURED + VARIANTS, ids=lambda family: family.title)
@torch.no_grad()
def test_submodules_are_what_the_layer_adds_to_its_input(family, made_family) -> None:
    models = made_family(family)
    base = open_checkpoint(models.base)
    decoder = Decoder(base, [open_checkpoint(models.math)], pack("math", TOKENS), "cpu")
    whole, tuned = Whole(models.base), Whole(models.math)
    for layer, mlp in enumerate(base.architecture.layers):
        groups = dict(zip(("first", "second"), np.array_split(np.arange(mlp.d_ffn), 2), strict=True))
        own, other = (dict(each.layers[layer].named_parameters()) for each in (whole, tuned))

        def zeros(module: str, own: dict = own) -> dict:
            return {name: torch.zeros_like(own[name]) for name in own if name.startswith(f"{module}.")}

        down = mlp.mlps[0].down.removeprefix(f"{mlp.decoder_layer}.").removesuffix(".weight")
        # Without its second matrix an MLP adds nothing: what is left is the attention.
        silent = (
            {name: torch.zeros_like(own[name]) for name in own if SECOND.search(name)} if mlp.routed else zeros(down)
        )
        alone = zeros(BESIDE[family.title]) if family.title in BESIDE else {}
        attention, feed_forward, *neurons = decoder.submodules(mlp, groups)
        for inputs in decoder.steps([attention, feed_forward, *neurons]):
            h = whole.calls[layer][0][0]
            torch.testing.assert_close(inputs.states, h, atol=1e-5, rtol=1e-5)
            normed = NORMED.get(family.title)
            for weights, theirs in ((own, attention.base), (other, attention.models[0])):
                expected = whole.run(layer, {**own, **{name: weights[name] for name in theirs}, **silent})
                found = attention.output(theirs, inputs).view_as(h)
                found = whole.layers[layer].get_submodule(normed)(found) if normed else h + found
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
            middle = 0 if normed else whole.run(layer, {**own, **silent, **alone})
            for weights, theirs in ((own, feed_forward.base), (other, feed_forward.models[0])):
                expected = whole.run(layer, {**own, **{name: weights[name] for name in theirs}, **alone})
                found = feed_forward.output(theirs, inputs).view_as(h)
                torch.testing.assert_close(middle + found, expected, atol=1e-5, rtol=1e-4)
            assert {*attention.base, *feed_forward.base} == own.keys()
            if mlp.routed:
                assert neurons[0].base.keys() == {name for name in own if NEURONS.search(name)}
                pair = ({**own, **{name: weights[name] for name in neurons[0].base}} for weights in (own, other))
                before, after = (whole.mlp(layer, weights, inputs.normed[None]) for weights in pair)
                parts = sum(n.output(n.models[0], inputs) - n.output(n.base, inputs) for n in neurons)
                torch.testing.assert_close(parts, (after - before).flatten(0, -2), atol=1e-5, rtol=1e-4)
                continue
            for each in (whole, tuned):
                module = each.layers[layer]
                bias = dict(module.named_parameters()).get(f"{down}.bias", torch.zeros(()))
                parts = sum(n.output(n.base if each is whole else n.models[0], inputs) for n in neurons)
                torch.testing.assert_close(parts, of_mlp(module, inputs.normed) - bias, atol=1e-5, rtol=1e-4)
