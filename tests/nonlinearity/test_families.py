"""The submodules of every family whose layers can be measured, against whole decoder layers with exchanged weights."""

import re
from dataclasses import replace
from inspect import signature
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.corpus.text_samples import pack
from nmerge_core.errors import InputError
from nmerge_core.nonlinearity.decoder import Decoder
from tests.families import FAMILIES, D, F, Family, family_of

UNMEASURED = ("Gemma 4 (text)", "Granite hybrid")  # layers that add more than an attention and an MLP
MEASURED = [f for f in FAMILIES if f.auto == "AutoModelForCausalLM" and f.title not in UNMEASURED]
_TOKENS = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
_SMALL = {"vocab_size": 257, "hidden_size": D, "intermediate_size": F, "num_hidden_layers": 2, "num_attention_heads": 4}


_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
_LINEAR: dict[str, Any] = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
}
_LINEAR |= {"layer_types": ["linear_attention", "full_attention"], "shared_expert_intermediate_size": 20}
_MPT = {"vocab_size": 257, "d_model": D, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}


def alike(title: str, config: str, **settings: Any) -> Family:
    """A family whose layers have other names than those of `FAMILIES`."""
    return replace(family_of("Llama"), title=title, config=config, settings=_SMALL | _TOKENS | settings)


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
    alike("Cohere", "CohereConfig"),
    alike("GLM-4", "Glm4Config", num_key_value_heads=2, head_dim=4),
    alike("VaultGemma", "VaultGemmaConfig", num_key_value_heads=2, head_dim=4),
    alike("HyperCLOVA X", "HyperCLOVAXConfig", num_key_value_heads=2),
    alike("AFMoE", "AfmoeConfig", num_key_value_heads=2, head_dim=4, num_dense_layers=1, **_EXPERTS),
    alike("Granite MoE", "GraniteMoeConfig", num_local_experts=4, num_experts_per_tok=2),
    alike("Qwen3-Next", "Qwen3NextConfig", num_key_value_heads=2, head_dim=4, **_EXPERTS, **_LINEAR),
    alike("ModernBERT decoder", "ModernBertDecoderConfig", max_position_embeddings=64),
    replace(family_of("Llama"), title="MPT", config="MptConfig", settings=_MPT),
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
SECOND = re.compile(r"(?:mlp|feed_forward|block_sparse_moe)\..*(?:down_proj|output_linear)(?:\.weight|_bias)?$")
NEURONS = re.compile(
    r"(?:mlp|feed_forward|block_sparse_moe)\..*(?:(?:gate_up|gate|up|down)_proj(?:\.weight)?|gate_up_proj_bias)$|_linear\.weight$"
)
MODULES = ("mlp", "feed_forward", "block_sparse_moe", "ffn")
TOKENS = [[5, 9, 200, 31, 8], [7, 7, 80, 2, 6]]


class Whole:
    """A model whose decoder layers are run as transformers runs them, with any weights."""

    def __init__(self, folder: str) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.layers: Any = next(
            m for name, m in self.model.named_modules() if name.endswith((".layers", ".h", ".blocks"))
        )
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
        name = next(each for each in MODULES if hasattr(self.layers[layer], each))
        own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
        output = torch.func.functional_call(self.layers[layer].get_submodule(name), own, z)
        return output[0] if isinstance(output, tuple) else output


def of_mlp(layer: Any, z: torch.Tensor) -> torch.Tensor:
    """What the MLP of a layer makes of what it reads."""
    mlp = next((getattr(layer, name) for name in MODULES if hasattr(layer, name)), None)
    if mlp is None:
        return layer.fc2(layer.activation_fn(layer.fc1(z)))
    adds = "residual" in signature(mlp.forward).parameters
    return mlp(z, torch.zeros_like(z)) if adds else mlp(z)


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
            for name in own:  # what an activation has of its own is no neuron's
                if "act_fn" in name:
                    other[name].copy_(own[name])
            for each in (whole, tuned):
                module = each.layers[layer]
                bias = dict(module.named_parameters()).get(f"{down}.bias", torch.zeros(()))
                parts = sum(n.output(n.base if each is whole else n.models[0], inputs) for n in neurons)
                torch.testing.assert_close(parts, of_mlp(module, inputs.normed) - bias, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (
            alike("GPT-NeoX Japanese", "GPTNeoXJapaneseConfig"),
            r"layers\.1\.attention\.dense_bias acts beside its",
        ),
        (alike("Doge", "DogeConfig"), r"layers\.0\.input_residual acts beside its attention and its MLP"),
        (
            alike("GPT", "OpenAIGPTConfig"),
            r"the attention of transformer\.h\.0 is wired otherwise",
        ),
        (alike("HRM", "HrmTextConfig"), r"found model\.H_module\.layers beside model\.L_module\.layers"),
    ],
    ids=lambda value: value.title if isinstance(value, Family) else "",
)
def test_layers_that_are_more_than_their_submodules_are_refused(family, message, made_family) -> None:
    base = open_checkpoint(made_family(family).base)
    with pytest.raises(InputError, match=message):
        decoder = Decoder(base, [base], pack("math", TOKENS), "cpu")
        for mlp in base.architecture.layers:
            for _ in decoder.steps(decoder.submodules(mlp, {})):
                pass
