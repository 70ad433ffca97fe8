"""MODEL+ADAPTER is what the peft library makes of the two, read by rows; and what it cannot be is refused."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.models.qwen2_vl import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from nmerge_core.checkpoints import absolute, fingerprint, halves, inspect_family, label, labels, open_checkpoint
from nmerge_core.checkpoints.adapter import LowRank
from nmerge_core.errors import InputError
from nmerge_core.merging.plan.opened import open_recipe
from nmerge_core.merging.recipe.reading import load_recipe
from tests.peft_adapters import GPT2, QWEN2, edit_config, merged, random_adapter, save_model

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
QWEN2_ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {"r": 4, "lora_alpha": 16, "target_modules": LINEAR},
    "rslora": {"r": 4, "lora_alpha": 16, "target_modules": LINEAR, "use_rslora": True},
    "patterns": {
        "r": 4,
        "target_modules": ["q_proj", "up_proj"],
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 6},
        "alpha_pattern": {"^model.layers.0.*": 3, "up_proj": 5},
        "use_rslora": True,
    },
    "bfloat16": {"r": 4, "target_modules": LINEAR},
    "modules_to_save": {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head", "norm"]},
    "embedding": {"r": 4, "lora_alpha": 3, "target_modules": ["embed_tokens", "lm_head", "o_proj"]},
    "lora_bias": {"r": 4, "lora_alpha": 3, "target_modules": ["q_proj", "v_proj"], "lora_bias": True},
    "all biases": {"r": 4, "target_modules": ["q_proj", "o_proj"], "bias": "all"},
}
GPT2_ADAPTERS: dict[str, dict[str, Any]] = {
    "conv1d": {"r": 4, "lora_alpha": 16, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
    "conv1d and head": {"r": 4, "target_modules": ["c_attn", "c_proj", "lm_head"], "use_rslora": True},
    "embeddings": {"r": 4, "target_modules": ["wte", "wpe", "c_fc"]},
    "everything": {"r": 2, "target_modules": ["c_proj"], "bias": "all", "modules_to_save": ["ln_f", "wpe"]},
}


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("qwen2") / "base")


def assert_equal_to_peft(reference: str, expected: dict[str, torch.Tensor]) -> None:
    checkpoint = open_checkpoint(reference)
    for name in checkpoint.tensors:
        found = torch.cat([checkpoint.read(name, 0, 5), checkpoint.read(name, 5)])
        torch.testing.assert_close(found, expected[name], msg=f"{name}: {{}}".format)


@pytest.mark.parametrize("kind", QWEN2_ADAPTERS)
def test_qwen2_with_an_adapter_is_what_peft_merges(qwen2: str, tmp_path: Path, kind: str) -> None:
    adapted = random_adapter(qwen2, tmp_path / "lora", **QWEN2_ADAPTERS[kind])
    if kind == "bfloat16":
        file = tmp_path / "lora/adapter_model.safetensors"
        save_file({name: value.bfloat16() for name, value in load_file(file).items()}, file)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_" in name:
                    parameter.copy_(parameter.bfloat16())
    assert_equal_to_peft(f"{qwen2}+{tmp_path / 'lora'}", merged(adapted).state_dict())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", GPT2_ADAPTERS)
def test_gpt2_with_an_adapter_is_what_peft_merges(tmp_path: Path, kind: str, tied: bool) -> None:
    model = save_model(tmp_path / "gpt2", type(GPT2)(**{**GPT2.to_dict(), "tie_word_embeddings": tied}))
    adapted = random_adapter(model, tmp_path / "lora", **GPT2_ADAPTERS[kind])
    assert_equal_to_peft(f"{model}+{tmp_path / 'lora'}", merged(adapted).state_dict())


def test_names_without_the_inner_models_prefix(tmp_path: Path) -> None:
    model = save_model(tmp_path / "gpt2", GPT2)
    adapted = random_adapter(model, tmp_path / "lora", r=4, target_modules=["c_attn", "wte"])
    file = tmp_path / "gpt2/model.safetensors"
    save_file(
        {name.removeprefix("transformer."): value for name, value in load_file(file).items()}, file, {"format": "pt"}
    )
    expected = {name.removeprefix("transformer."): value for name, value in merged(adapted).state_dict().items()}
    assert_equal_to_peft(f"{model}+{tmp_path / 'lora'}", expected)


def test_a_trained_adapter_computes_what_the_trained_model_did(qwen2: str, tmp_path: Path) -> None:
    adapted = random_adapter(qwen2, tmp_path / "start", r=4, target_modules=LINEAR)
    tokens = torch.arange(24).view(2, 12) % 40
    optimizer = torch.optim.Adam((p for p in adapted.parameters() if p.requires_grad), lr=1e-2)
    losses = []
    for _ in range(5):
        loss = adapted(input_ids=tokens, labels=tokens).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    adapted.save_pretrained(str(tmp_path / "trained"))
    model = AutoModelForCausalLM.from_pretrained(qwen2)
    checkpoint = open_checkpoint(f"{qwen2}+{tmp_path / 'trained'}")
    model.load_state_dict({name: checkpoint.read(name) for name in checkpoint.tensors})
    torch.testing.assert_close(model(tokens).logits, adapted(input_ids=tokens).logits, atol=1e-3, rtol=1e-4)


def test_by_hand(tmp_path: Path, qwen2: str) -> None:
    """α = 6, r = 1: s = 6, with rank stabilisation too (√1 = 1); W + 6·[1 0 … 0]ᵀ[0 2 0 … 0] adds 12 at (0, 1)."""
    random_adapter(qwen2, tmp_path / "lora", r=1, lora_alpha=6, target_modules=["layers.0.self_attn.o_proj"])
    a, b = torch.zeros(1, 32), torch.zeros(32, 1)
    a[0, 1], b[0, 0] = 2, 1
    module = "base_model.model.model.layers.0.self_attn.o_proj"
    file = tmp_path / "lora/adapter_model.safetensors"
    save_file({f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}, file)
    name = "model.layers.0.self_attn.o_proj.weight"
    difference = open_checkpoint(f"{qwen2}+{tmp_path / 'lora'}").read(name) - open_checkpoint(qwen2).read(name)
    assert difference.nonzero().tolist() == [[0, 1]] and difference[0, 1].item() == pytest.approx(12, abs=1e-6)


def test_the_sum_is_not_rounded_to_the_models_dtype(tmp_path: Path) -> None:
    model = save_model(tmp_path / "half", dtype=torch.bfloat16)
    random_adapter(model, tmp_path / "lora", r=4, target_modules=["q_proj"])
    checkpoint = open_checkpoint(f"{model}+{tmp_path / 'lora'}")
    name = "model.layers.0.self_attn.q_proj.weight"
    factors = load_file(tmp_path / "lora/adapter_model.safetensors")
    a, b = (factors[f"base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.weight"] for side in "AB")
    expected = open_checkpoint(model).read(name).float() + 2 * (b.float() @ a.float())  # s = 8 / 4
    torch.testing.assert_close(checkpoint.read(name), expected)
    assert not torch.equal(checkpoint.read(name), expected.bfloat16().float())
    assert checkpoint.read("model.layers.0.self_attn.k_proj.weight").dtype == torch.bfloat16


TIED = type(QWEN2)(**{**QWEN2.to_dict(), "tie_word_embeddings": True})


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_a_tied_tensor_changes_as_peft_merges_it_with_a_warning(tmp_path: Path, module: str) -> None:
    model = save_model(tmp_path / "tied", TIED)
    adapted = random_adapter(model, tmp_path / "lora", r=4, target_modules=["q_proj", module])
    reference = f"{model}+{tmp_path / 'lora'}"
    assert_equal_to_peft(reference, merged(adapted).state_dict())
    (warning,) = open_checkpoint(reference).adapter.warnings
    assert "ties into one tensor" in warning
    report = inspect_family(model, [reference])
    assert report.mergeable and f"tied+lora: {warning}" in report.warnings
    recipe = {"merge_method": "task_arithmetic", "base_model": model, "models": [{"model": reference}]}
    assert f"tied+lora: {warning}" in open_recipe(load_recipe(recipe)).warnings


@pytest.mark.parametrize("options", [{"target_modules": ["embed_tokens"]}, {"modules_to_save": ["embed_tokens"]}])
def test_a_tied_tensor_trained_as_one_computes_what_the_trained_model_does(tmp_path: Path, options: dict) -> None:
    model = save_model(tmp_path / "tied", TIED)
    options = {"target_modules": ["q_proj"], **options}
    adapted = random_adapter(model, tmp_path / "lora", r=4, ensure_weight_tying=True, **options)
    checkpoint = open_checkpoint(f"{model}+{tmp_path / 'lora'}")
    assert checkpoint.adapter.warnings == ()
    plain = AutoModelForCausalLM.from_pretrained(model)
    plain.load_state_dict({name: checkpoint.read(name) for name in checkpoint.tensors}, strict=False)
    tokens = torch.arange(24).view(2, 12)
    torch.testing.assert_close(plain(tokens).logits, adapted(input_ids=tokens).logits, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
        {"target_modules": ["embed_tokens", "lm_head"]},
    ],
)
def test_what_would_untie_a_model_is_refused(tmp_path: Path, options: dict) -> None:
    model = save_model(tmp_path / "tied", TIED)
    random_adapter(model, tmp_path / "lora", r=4, **options)
    with pytest.raises(InputError, match="trained with a head apart from the embedding, which .*tied.* ties"):
        open_checkpoint(f"{model}+{tmp_path / 'lora'}")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"use_dora": True}, "key 'use_dora': expected it unset, found True: DoRA rescales"),
        ({"trainable_token_indices": [1, 2]}, "key 'trainable_token_indices'.*one by one"),
        ({"layer_replication": [[0, 2]]}, "key 'layer_replication'"),
        ({"new_in_2030": 0.5}, "key 'new_in_2030': expected it unset, found 0.5: it is not known here"),
        ({"peft_type": "IA3"}, "key 'peft_type': expected LORA, found IA3"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4' changed the weights of the model"),
        ({"r": 3}, r"lora_A.weight: expected shape \(3, in\) for model.layers.0.self_attn.q_proj.weight"),
        ({"r": None}, "key 'r': expected a number above 0, found None"),
        ({"rank_pattern": {"(": 3}}, "expected a regular expression, found '\\('"),
        ({"alpha_pattern": [3]}, r"key 'alpha_pattern': expected a mapping from modules to numbers, found \[3\]"),
    ],
)
def test_what_is_no_sum_of_weights_is_refused(qwen2: str, tmp_path: Path, keys: dict, message: str) -> None:
    random_adapter(qwen2, tmp_path / "lora", r=4, target_modules=["q_proj"])
    edit_config(tmp_path / "lora", **keys)
    with pytest.raises(InputError, match=message):
        open_checkpoint(f"{qwen2}+{tmp_path / 'lora'}")


def test_keys_that_are_unset_or_only_say_how_it_was_trained_are_taken(qwen2: str, tmp_path: Path) -> None:
    random_adapter(qwen2, tmp_path / "lora", r=4, target_modules=["q_proj"])
    edit_config(tmp_path / "lora", new_in_2030=None, layers_to_transform=[0], lora_dropout=0.1, init_lora_weights="eva")
    assert open_checkpoint(f"{qwen2}+{tmp_path / 'lora'}").adapter


MODULE = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"{MODULE}s.lora_A.weight": (4, 32), f"{MODULE}s.lora_B.weight": (32, 4)}, "found no .*q_projs.weight there"),
        ({f"{MODULE}.lora_A.weight": (4, 32)}, f"expected {MODULE}.lora_B.weight, found none"),
        ({f"{MODULE}.lora_A.weight": (4, 32), f"{MODULE}.lora_B.weight": (31, 4)}, r"found \[31, 4\]; name the model"),
        ({f"{MODULE}.lora_A.weight": (4, 32), f"{MODULE}.lora_B.weight": (32, 5)}, r"expected shape \(out, 4\)"),
        ({f"{MODULE}.lora_A.weight": (4, 32), f"{MODULE}.lora_B.weight": (4,)}, r"expected shape \(out, 4\)"),
        ({f"{MODULE}.lora_magnitude_vector": (32,)}, f"tensor {MODULE}.lora_magnitude_vector: expected a change of"),
        ({"base_model.model.model.norm.weight": (33,)}, r"expected shape \[32\] for model.norm.weight"),
        ({}, "expected the tensors of a LoRA, found none"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(qwen2: str, tmp_path: Path, tensors: dict, message: str) -> None:
    random_adapter(qwen2, tmp_path / "lora", r=4, target_modules=["q_proj"])
    file = tmp_path / "lora/adapter_model.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, file)
    with pytest.raises(InputError, match=message):
        open_checkpoint(f"{qwen2}+{tmp_path / 'lora'}")


def test_a_bias_for_a_layer_without_one_is_refused(qwen2: str, tmp_path: Path) -> None:
    random_adapter(qwen2, tmp_path / "lora", r=4, target_modules=["o_proj"], lora_bias=True)
    with pytest.raises(InputError, match=r"o_proj.lora_B.bias: .*found no model.layers.0.self_attn.o_proj.bias there"):
        open_checkpoint(f"{qwen2}+{tmp_path / 'lora'}")


def test_files_that_are_not_an_adapters(qwen2: str, tmp_path: Path) -> None:
    random_adapter(qwen2, tmp_path / "lora", r=4, target_modules=["q_proj"])
    with pytest.raises(InputError, match=r"expected a model, found an adapter; write MODEL\+.*lora with the model"):
        open_checkpoint(str(tmp_path / "lora"))
    with pytest.raises(InputError, match="nowhere: no such folder; expected a folder with adapter_config.json"):
        open_checkpoint(f"{qwen2}+nowhere")
    with pytest.raises(InputError, match="expected an adapter .adapter_config.json., found a model"):
        open_checkpoint(f"{qwen2}+{qwen2}")
    with pytest.raises(InputError, match=r"found an empty name beside a '\+'"):
        open_checkpoint(f"{qwen2}+")
    file = tmp_path / "lora/adapter_model.safetensors"
    save_file({name: value.to(torch.int8) for name, value in load_file(file).items()}, file)
    with pytest.raises(InputError, match="expected one of F64, F32, F16, BF16, found I8"):
        open_checkpoint(f"{qwen2}+{tmp_path / 'lora'}")
    file.rename(tmp_path / "lora/adapter_model.bin")
    with pytest.raises(InputError, match=r"adapter_model.bin: not a complete file of torch.save"):
        open_checkpoint(f"{qwen2}+{tmp_path / 'lora'}")
    (tmp_path / "lora/adapter_model.bin").unlink()
    with pytest.raises(InputError, match="adapter_model.safetensors: missing; expected the adapter's weights"):
        open_checkpoint(f"{qwen2}+{tmp_path / 'lora'}")


def test_a_reference_is_cut_where_folders_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b+c", "a+b", "d"):
        (tmp_path / folder).mkdir()
    assert halves("a") == ("a",)
    assert halves("a+b") == ("a+b",)  # it is a folder
    assert halves("a+b+c") == ("a", "b+c")  # the cut between folders; a+b and c would be the other
    assert halves("a+b+d") == ("a+b", "d")
    assert halves("org/model+org/lora") == ("org/model", "org/lora")
    assert absolute("a+org/lora") == f"{tmp_path}/a+org/lora"
    assert absolute("a+d") == f"{tmp_path}/a+{tmp_path}/d"


def test_labels_name_model_and_adapter() -> None:
    assert label("models/base+runs/lora") == "base+lora"
    assert labels(["m/base+x/lora", "m/base+y/lora", "m/base"]) == ["m/base+x/lora", "m/base+y/lora", "base"]


def test_fingerprint_follows_the_adapter_not_its_place(qwen2: str, tmp_path: Path) -> None:
    found = [fingerprint(open_checkpoint(qwen2))]
    for folder in ("one", "two"):
        random_adapter(qwen2, tmp_path / folder, r=4, target_modules=["q_proj"])
        edit_config(tmp_path / folder, base_model_name_or_path=folder)
    same = [fingerprint(open_checkpoint(f"{qwen2}+{tmp_path / folder}")) for folder in ("one", "two")]
    assert same[0] == same[1]
    found.append(same[0])
    edit_config(tmp_path / "one", lora_alpha=5)
    found.append(fingerprint(open_checkpoint(f"{qwen2}+{tmp_path / 'one'}")))
    random_adapter(qwen2, tmp_path / "three", r=4, target_modules=["q_proj"], seed=2)
    found.append(fingerprint(open_checkpoint(f"{qwen2}+{tmp_path / 'three'}")))
    assert len(set(found)) == 4


def test_rows_read_only_their_part_of_a_transposed_factor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of an embedding of 40 are read with 2·4 entries of lora_embedding_A (4, 40), not with all 160."""
    model = save_model(tmp_path / "model")
    random_adapter(model, tmp_path / "lora", r=4, target_modules=["embed_tokens"])
    checkpoint = open_checkpoint(f"{model}+{tmp_path / 'lora'}")
    change = checkpoint.adapter.added["model.embed_tokens.weight"]
    assert isinstance(change, LowRank) and change.a.shape == (4, 40)
    read, preadv = [], os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: read.append(len(buffers[0])) or preadv(fd, buffers, at))
    checkpoint.read("model.embed_tokens.weight", 7, 9)
    # The stored base rows 2·32, then four times 2 entries of A, then all 32·4 of B; 4 bytes each.
    assert read == [4 * 64, *[4 * 2] * 4, 4 * 128]


def test_config_is_json(qwen2: str, tmp_path: Path) -> None:
    random_adapter(qwen2, tmp_path / "lora", r=4, target_modules=["q_proj"])
    (tmp_path / "lora/adapter_config.json").write_text(json.dumps([]))
    with pytest.raises(InputError, match="adapter_config.json: expected a JSON object, found list"):
        open_checkpoint(f"{qwen2}+{tmp_path / 'lora'}")


def test_tokens_that_were_added_before_training_are_told(qwen2: str, tmp_path: Path) -> None:
    random_adapter(
        qwen2, tmp_path / "lora", r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]
    )
    file = tmp_path / "lora/adapter_model.safetensors"
    weights = load_file(file)
    grown = {
        name: torch.cat([value, value[:3]]) if "embed_tokens" in name else value for name, value in weights.items()
    }
    save_file(grown, file)
    edit_config(tmp_path / "lora", base_model_name_or_path="lab/other")
    message = r"a token each.*found \d+: tokens were added before .*names lab/other\)"
    with pytest.raises(InputError, match=message):
        open_checkpoint(f"{qwen2}+{tmp_path}/lora")


def test_an_adapter_of_a_quantised_model_is_taken_and_told(qwen2: str, tmp_path: Path) -> None:
    random_adapter(qwen2, tmp_path / "lora", r=2, target_modules=["q_proj"])
    edit_config(tmp_path / "lora", base_model_name_or_path="unsloth/qwen2-bnb-4bit")
    report = inspect_family(qwen2, [f"{qwen2}+{tmp_path}/lora"])
    assert report.mergeable and any(
        "trained on quantised weights (unsloth/qwen2-bnb-4bit)" in w for w in report.warnings
    )


def test_an_adapter_of_another_version_s_names_is_matched(tmp_path: Path) -> None:
    """It names `model.language_model.layers…`, as transformers 5 does; the model was saved by 4: `model.layers…`."""
    text: dict[str, Any] = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    text |= {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "patch_size": 2}
    model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision))
    model.save_pretrained(tmp_path / "base")
    stored = open_checkpoint(str(tmp_path / "base"))
    weight = next(name for name in stored.tensors if name.endswith("layers.0.self_attn.q_proj.weight"))
    assert weight == "model.layers.0.self_attn.q_proj.weight"
    (tmp_path / "lora").mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (tmp_path / "lora/adapter_config.json").write_text(json.dumps(settings))
    path = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
    factors = {f"{path}.lora_A.weight": torch.ones(2, 16), f"{path}.lora_B.weight": torch.ones(16, 2)}
    save_file(factors, tmp_path / "lora/adapter_model.safetensors")
    adapted = open_checkpoint(f"{tmp_path}/base+{tmp_path}/lora")
    # B A is 2 everywhere, times s = 2 / 2.
    torch.testing.assert_close(adapted.read(weight), stored.read(weight) + 2)
