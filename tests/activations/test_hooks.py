from functools import partial

import pytest
import torch
from transformers import LlamaConfig, Qwen2Config
from transformers.models.hy_v4 import HYV4Config

from nmerge_core.activations.hooks import knock_out, record_activations
from nmerge_core.errors import InputError
from nmerge_core.loading import load_model
from tests.tiny import D_FFN, tiny_model

TOKENS = torch.tensor([[5, 9, 200, 31], [7, 7, 80, 2]])


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def loaded(request, tmp_path_factory):
    config = {"qwen2": Qwen2Config, "llama": LlamaConfig}[request.param]
    return load_model(tiny_model(tmp_path_factory.mktemp(request.param), config=config), "cpu")


def run(loaded):
    with torch.no_grad():
        return loaded.model(TOKENS).logits


def test_recorded_is_silu_gate_times_up(loaded):
    seen, mlp_inputs = {}, []
    mlp = loaded.model.model.layers[1].mlp
    handle = mlp.register_forward_pre_hook(lambda module, inputs: mlp_inputs.append(inputs[0]))
    with record_activations(loaded.model, loaded.architecture, [1], lambda layer, phi: seen.update({layer: phi})):
        run(loaded)
    handle.remove()
    z = mlp_inputs[0]  # (B, T, d_model)
    gate = z @ mlp.gate_proj.weight.T  # (B, T, d_ffn)
    expected = gate / (1 + torch.exp(-gate)) * (z @ mlp.up_proj.weight.T)
    assert list(seen) == [1]
    assert seen[1].shape == (2, 4, D_FFN)
    torch.testing.assert_close(seen[1], expected)


def test_knocking_out_equals_zeroing_the_columns_of_down(loaded):
    before = run(loaded)
    with knock_out(loaded.model, loaded.architecture, {0: [3, 40], 1: [0]}):
        silenced = run(loaded)
    weights = [layer.mlp.down_proj.weight for layer in loaded.model.model.layers]
    kept = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        weights[0][:, [3, 40]] = 0
        weights[1][:, 0] = 0
        torch.testing.assert_close(silenced, run(loaded))
        for weight, copy in zip(weights, kept, strict=True):
            weight.copy_(copy)
    assert not torch.allclose(before, silenced)
    assert torch.equal(before, run(loaded))


def test_no_neurons_leave_the_model_as_it_is(loaded):
    before = run(loaded)
    with knock_out(loaded.model, loaded.architecture, {0: [], 1: []}):
        assert torch.equal(run(loaded), before)


def test_recording_inside_a_knock_out_sees_the_zeros(loaded):
    seen = {}
    with (
        knock_out(loaded.model, loaded.architecture, {0: [2]}),
        record_activations(loaded.model, loaded.architecture, [0], lambda layer, phi: seen.update({layer: phi})),
    ):
        run(loaded)
    assert (seen[0][..., 2] == 0).all()
    assert (seen[0][..., 3] != 0).all()


def test_hooks_are_gone_after_a_failure(loaded):
    before = run(loaded)

    def fail(layer, phi):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), record_activations(loaded.model, loaded.architecture, [0, 1], fail):
        run(loaded)
    with pytest.raises(RuntimeError, match="stop"), knock_out(loaded.model, loaded.architecture, {0: [1]}):
        raise RuntimeError("stop")
    assert torch.equal(run(loaded), before)
    assert not any(module._forward_pre_hooks for module in loaded.model.modules())


def test_unknown_layers_and_neurons_are_named(loaded):
    with (
        pytest.raises(InputError, match="no layer 2: the model has layers 0 to 1"),
        record_activations(loaded.model, loaded.architecture, [0, 2], lambda layer, phi: None),
    ):
        pass
    assert not any(module._forward_pre_hooks for module in loaded.model.modules())
    for wrong in (-1, D_FFN):
        with (
            pytest.raises(InputError, match=rf"layer 1 has neurons 0 to {D_FFN - 1}, asked to knock out \[{wrong}\]"),
            knock_out(loaded.model, loaded.architecture, {1: [wrong]}),
        ):
            run(loaded)


def test_a_layer_that_reads_several_streams_has_the_neurons_of_one(tmp_path):
    """Of Hy 4 a layer takes (B, T, streams, d_model), its MLP (B, T, d_model); the shared expert's neurons are last."""
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "first_k_dense_replace": 1}
    heads = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4}
    config = partial(HYV4Config, pad_token_id=0, n_shared_experts=1, n_group=1, topk_group=1, **experts, **heads)
    loaded = load_model(tiny_model(tmp_path, config=config), "cpu")
    seen, down = {}, []
    shared = loaded.model.model.layers[1].mlp.shared_experts.down_proj
    shared.register_forward_pre_hook(lambda module, inputs: down.append(inputs[0]))
    with record_activations(loaded.model, loaded.architecture, [0, 1], lambda layer, phi: seen.update({layer: phi})):
        run(loaded)
    assert {layer: phi.shape for layer, phi in seen.items()} == {0: (2, 4, D_FFN), 1: (2, 4, 5 * 8)}
    torch.testing.assert_close(seen[1][..., 4 * 8 :], down[0])
