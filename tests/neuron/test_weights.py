"""What a neuron's weights say: promoted tokens and nearest neurons, against plain computations of several families."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from nmerge_core.errors import InputError
from nmerge_core.kinds import SCORED
from nmerge_core.loading import load_model
from nmerge_core.neuron.lens import lens, logits_of
from nmerge_core.neuron.nearest import nearest
from tests.families import family_of

LAYER, NEURON = 0, 5  # not in the last layer: the layers above are passed by
Made = Callable[[Any], SimpleNamespace]


def through(*modules: Any) -> Callable[[Tensor], Tensor]:
    """The logits of a column by a model's own modules, one after the other."""

    def logits(column: Tensor) -> Tensor:
        for module in modules:
            column = module(column)
        return column

    return logits


def gated(model: Any) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    down = model.model.layers[LAYER].mlp.down_proj.weight[:, NEURON]
    return down, through(model.model.norm, model.lm_head)


def gemma(model: Any) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The MLP's output is normed, and the logits are capped."""
    layer, cap = model.model.layers[LAYER], model.config.final_logit_softcapping
    capped = through(lambda logits: cap * torch.tanh(logits / cap))
    passed = through(layer.post_feedforward_layernorm, model.model.norm, model.lm_head, capped)
    return layer.mlp.down_proj.weight[:, NEURON], passed


def gpt2(model: Any) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Weights are stored (in, out), and the final norm has a bias."""
    return model.transformer.h[LAYER].mlp.c_proj.weight[NEURON], through(model.transformer.ln_f, model.lm_head)


def opt(model: Any) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The MLP has no module of its own."""
    decoder = model.model.decoder
    return decoder.layers[LAYER].fc2.weight[:, NEURON], through(decoder.final_layer_norm, model.lm_head)


def mixtral(model: Any) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Neuron 5 is the first expert's."""
    down = model.model.layers[LAYER].mlp.experts.down_proj[0][:, NEURON]
    return down, through(model.model.norm, model.lm_head)


@pytest.mark.parametrize(
    ("title", "plain"),
    [("Qwen2", gated), ("Gemma 2", gemma), ("GPT-2", gpt2), ("OPT", opt), ("Mixtral", mixtral)],
)
@torch.no_grad()
def test_promoted_tokens_are_those_of_the_models_own_modules(made_family: Made, title: str, plain: Any) -> None:
    base = made_family(family_of(title)).base
    loaded = load_model(base, "cpu", "float32")
    column, logits = plain(loaded.model)
    expected = logits(column) - logits(torch.zeros_like(column))
    torch.testing.assert_close(logits_of(loaded, base, LAYER, NEURON), expected, rtol=1e-4, atol=1e-5)
    found = lens(loaded, base, LAYER, NEURON, 3)
    assert [value for _, value in found.promoted] == pytest.approx(expected.sort(descending=True).values[:3].tolist())
    assert [value for _, value in found.suppressed] == pytest.approx(expected.sort().values[:3].tolist(), rel=1e-4)
    assert found.promoted[0][0] == loaded.tokenizer.decode([int(expected.argmax())])


def test_a_family_without_an_unembedding_is_told(made_family: Made) -> None:
    base = made_family(family_of("T5")).base
    with pytest.raises(InputError, match="expected a causal language model"):
        lens(load_model(base, "cpu", "float32", kinds=SCORED), base, 0, 1)


@pytest.mark.parametrize("title", ["Qwen2", "GPT-2", "Mixtral"])
@torch.no_grad()
def test_nearest_neurons_are_those_of_all_cosines(made_family: Made, title: str) -> None:
    base = made_family(family_of(title)).base
    layers = load_model(base, "cpu", "float32").model
    vectors = [vectors_of(title, layers, layer) for layer in (0, 1)]  # (neurons, d) each
    own = vectors[1][NEURON]
    for everywhere in (False, True):
        found = nearest(base, 1, NEURON, count=4, everywhere=everywhere)
        cosines = {
            (layer, neuron): cosine.item()
            for layer in ((0, 1) if everywhere else (1,))
            for neuron, cosine in enumerate(torch.cosine_similarity(vectors[layer], own[None]))
            if (layer, neuron) != (1, NEURON)
        }
        expected = sorted(cosines, key=lambda place: -cosines[place])[:4]
        assert list(zip(found["layer"], found["neuron"], strict=True)) == expected
        assert list(found["cosine"]) == pytest.approx([cosines[place] for place in expected], abs=1e-6)


def vectors_of(title: str, model: Any, layer: int) -> Tensor:
    """The rows of gate and up and the column of down of each neuron, (neurons, d), in float64."""
    if title == "GPT-2":
        mlp = model.transformer.h[layer].mlp
        return torch.cat([mlp.c_fc.weight.T, mlp.c_proj.weight], dim=1).double()
    mlp = model.model.layers[layer].mlp
    if title == "Mixtral":  # (experts, gate and up, d), (experts, d, neurons of an expert)
        fused, down = mlp.experts.gate_up_proj, mlp.experts.down_proj
        gate, up = fused.chunk(2, dim=1)
        return torch.cat([gate, up, down.transpose(1, 2)], dim=2).flatten(0, 1).double()
    return torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight.T], dim=1).double()
