import pytest
import torch

from nmerge_core.activations.experts import editing
from nmerge_core.activations.hooks import knock_out, record_activations
from nmerge_core.errors import InputError
from nmerge_core.loading import load_model
from tests.families import EXPERTS, FAMILIES, MOE_F, SHARED_F, make

TOKENS = torch.tensor([[5, 9, 200, 31], [7, 7, 80, 2]])


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    family = next(family for family in FAMILIES if family.title == "Qwen2-MoE")
    return load_model(make(family, tmp_path_factory.mktemp("moe")).base, "cpu")


def run(loaded):
    with torch.no_grad():
        return loaded.model(TOKENS).logits


def naive(block, z):
    """φ of every neuron at every token, (tokens, d_ffn): 0 where the router sends the token elsewhere."""
    _, _, chosen = block.gate(z)
    phi = torch.zeros(len(z), EXPERTS * MOE_F + SHARED_F)
    for token, state in enumerate(z):
        for expert in chosen[token].tolist():
            gate, up = (block.experts.gate_up_proj[expert] @ state).chunk(2)
            phi[token, expert * MOE_F : (expert + 1) * MOE_F] = gate / (1 + torch.exp(-gate)) * up
        shared = block.shared_expert
        gate, up = shared.gate_proj.weight @ state, shared.up_proj.weight @ state
        phi[token, EXPERTS * MOE_F :] = gate / (1 + torch.exp(-gate)) * up
    return phi


def test_recorded_is_phi_of_the_chosen_experts_and_of_the_shared_one(loaded):
    seen, inputs = {}, []
    block = loaded.model.model.layers[1].mlp
    handle = block.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    with record_activations(loaded.model, loaded.architecture, [1], lambda layer, phi: seen.update({layer: phi})):
        run(loaded)
    handle.remove()
    with torch.no_grad():
        expected = naive(block, inputs[0].flatten(0, 1))
    torch.testing.assert_close(seen[1], expected.view(2, 4, -1))
    routed = (seen[1][..., : EXPERTS * MOE_F] != 0).view(8, EXPERTS, MOE_F).any(-1)
    assert (routed.sum(1) == 2).all()  # experts a token


def test_one_by_one_equals_what_transformers_runs(loaded):
    before = run(loaded)
    with knock_out(loaded.model, loaded.architecture, {0: [], 1: []}):
        assert loaded.model.config._experts_implementation == "nmerge_one_by_one"
        torch.testing.assert_close(run(loaded), before, atol=1e-5, rtol=1e-5)
    assert torch.equal(run(loaded), before)


def test_all_is_as_before_after_a_failure(loaded):
    before, implementation = run(loaded), loaded.model.get_experts_implementation()

    def fail(expert, phi, tokens):
        raise RuntimeError("stop")

    with (
        pytest.raises(RuntimeError, match="stop"),
        editing(loaded.model, loaded.model.model.layers[0].mlp.experts, fail),
    ):
        run(loaded)
    with pytest.raises(RuntimeError, match="stop"), knock_out(loaded.model, loaded.architecture, {1: [3]}):
        raise RuntimeError("stop")
    assert loaded.model.get_experts_implementation() == implementation
    assert torch.equal(run(loaded), before)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in loaded.model.modules())


def test_neurons_beyond_the_shared_expert_are_named(loaded):
    d_ffn = EXPERTS * MOE_F + SHARED_F
    with (
        pytest.raises(InputError, match=rf"layer 0 has neurons 0 to {d_ffn - 1}, asked to knock out \[{d_ffn}\]"),
        knock_out(loaded.model, loaded.architecture, {0: [d_ffn]}),
    ):
        pass
