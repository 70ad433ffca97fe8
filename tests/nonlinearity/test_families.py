"""The submodules of every family whose layers can be measured, against whole decoder layers with exchanged weights."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.nonlinearity.decoder import Decoder
from nmerge_core.text_samples import pack
from tests.families import FAMILIES, F, make

OTHER_LAYERS = ("GPT-NeoX", "Falcon", "OPT", "BLOOM", "GPT-J")  # of a form that is refused by name
DENSE = [family for family in FAMILIES if family.auto == "AutoModelForCausalLM" and family.neurons == (F, F)]
MEASURED = [family for family in DENSE if family.title not in OTHER_LAYERS]
TOKENS = [[5, 9, 200, 31, 8], [7, 7, 80, 2, 6]]


class Whole:
    """A model whose decoder layers are run as transformers runs them, with any weights."""

    def __init__(self, folder: str) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        decoder = self.model.get_decoder()
        self.layers = decoder.layers if hasattr(decoder, "layers") else decoder.h
        self.calls: list = []
        for layer in self.layers:
            layer.register_forward_pre_hook(
                lambda module, args, given: self.calls.append((args, given)), with_kwargs=True
            )
        self.model(torch.tensor(TOKENS), use_cache=False)

    def run(self, layer: int, weights: dict) -> torch.Tensor:
        args, given = self.calls[layer]
        return torch.func.functional_call(self.layers[layer], weights, args, given)


@pytest.mark.parametrize("family", MEASURED, ids=lambda family: family.title)
@torch.no_grad()
def test_submodules_are_what_the_layer_adds_to_its_input(family, tmp_path) -> None:
    models = make(family, tmp_path)
    base = open_checkpoint(models.base)
    decoder = Decoder(base, [open_checkpoint(models.math)], pack("math", TOKENS), "cpu")
    whole, tuned = Whole(models.base), Whole(models.math)
    groups = {"first": torch.arange(0, F // 2).numpy(), "second": torch.arange(F // 2, F).numpy()}
    for layer, mlp in enumerate(base.architecture.layers):
        own, other = (dict(each.layers[layer].named_parameters()) for each in (whole, tuned))
        down = mlp.mlps[0].down.removeprefix(f"{mlp.decoder_layer}.").removesuffix(".weight")
        # Without its second matrix an MLP adds nothing: what is left is the attention.
        silent = {name: torch.zeros_like(own[name]) for name in own if name.startswith(down)}
        attention, feed_forward, *neurons = decoder.submodules(mlp, groups)
        for inputs in decoder.steps([attention, feed_forward, *neurons]):
            h = whole.calls[layer][0][0]
            torch.testing.assert_close(inputs.states, h, atol=1e-5, rtol=1e-5)
            for weights, theirs in ((own, attention.base), (other, attention.models[0])):
                expected = whole.run(layer, {**weights, **silent}) - h
                found = attention.output(theirs, inputs)
                torch.testing.assert_close(found, expected.flatten(0, 1), atol=1e-5, rtol=1e-4)
            middle = whole.run(layer, {**own, **silent})
            for weights, theirs in ((own, feed_forward.base), (other, feed_forward.models[0])):
                swapped = {name: weights[name] if name in feed_forward.base else own[name] for name in own}
                expected = whole.run(layer, swapped) - middle
                found = feed_forward.output(theirs, inputs)
                torch.testing.assert_close(found, expected.flatten(0, 1), atol=1e-5, rtol=1e-4)
            for each in (whole, tuned):
                module = each.layers[layer].mlp
                bias = dict(module.named_parameters()).get(f"{down.removeprefix('mlp.')}.bias", torch.zeros(()))
                parts = sum(n.output(n.base if each is whole else n.models[0], inputs) for n in neurons)
                torch.testing.assert_close(parts, module(inputs.normed) - bias, atol=1e-5, rtol=1e-4)
