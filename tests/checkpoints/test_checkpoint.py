import json
import os
import sys
from pathlib import Path

import pytest
import torch

from nmerge_core.checkpoints import fingerprint, inspect_family, label, labels, open_checkpoint, resolve
from nmerge_core.errors import InputError
from tests.merging import checkpoints


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return checkpoints.random_weights(0)


def test_rows_are_read_from_any_shard(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    half = {name: value.bfloat16() for name, value in weights.items()}
    opened = open_checkpoint(checkpoints.write(tmp_path / "m", half, shards=3))
    assert len(opened.files) == 3
    for name, value in half.items():
        assert torch.equal(opened.read(name), value)
    assert torch.equal(opened.read("model.embed_tokens.weight", 3, 7), half["model.embed_tokens.weight"][3:7])
    assert opened.read("model.norm.weight", 2, 2).shape == (0,)
    with pytest.raises(InputError, match="no tensor 'nothing'"):
        opened.read("nothing")


def test_a_file_that_shrinks_after_it_was_opened(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    opened = open_checkpoint(checkpoints.write(tmp_path / "m", weights))
    os.truncate(tmp_path / "m/model.safetensors", 3000)
    with pytest.raises(InputError, match=r"ended before byte [\d,]+; it was complete when it was opened"):
        for name in weights:
            opened.read(name)
    (tmp_path / "m/model.safetensors").unlink()
    with pytest.raises(InputError, match="was it moved while it was in use"):
        opened.read("model.norm.weight")


def test_missing_shards_are_named(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    checkpoints.write(tmp_path / "m", weights, shards=3)
    (tmp_path / "m/model-00002-of-00003.safetensors").unlink()
    with pytest.raises(InputError, match="found model-00002-of-00003.safetensors missing"):
        open_checkpoint(str(tmp_path / "m"))


def test_neurons_are_rows_of_gate_and_up_and_columns_of_down(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    architecture = open_checkpoint(checkpoints.write(tmp_path / "m", weights)).architecture
    mlp = architecture.layers[1]
    assert (mlp.mlps[0].down, mlp.decoder_layer, mlp.d_ffn) == (
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.1",
        12,
    )
    neurons = {
        name.rpartition(".1.")[2]: found.tolist()
        for name in weights
        if ".1." in name and (found := architecture.neurons(name, 3, 5)) is not None
    }
    rows = [[3], [4]]
    assert neurons == {
        "mlp.gate_proj.weight": rows,
        "mlp.up_proj.weight": rows,
        "mlp.down_proj.weight": [[*range(12)]],
    }
    parts = {name.replace("model.layers.1.", ""): architecture.submodule(name) for name in weights if ".0." not in name}
    assert parts["self_attn.q_proj.bias"] == parts["input_layernorm.weight"] == "attention"
    assert parts["mlp.down_proj.weight"] == parts["post_attention_layernorm.weight"] == "mlp"
    assert (parts["model.embed_tokens.weight"], parts["model.norm.weight"]) == ("embedding", "norm")


def test_neurons_that_are_not_known_are_refused_with_what_was_found_where_they_are_asked_for(tmp_path: Path) -> None:
    reference = checkpoints.write(tmp_path / "m", {"h.0.mlp.c_fc.weight": torch.zeros(2, 3)}, model_type="gpt2")
    architecture = open_checkpoint(reference).architecture
    assert (architecture.depth, architecture.layer_of("h.0.mlp.c_fc.weight")) == (1, 0)
    assert architecture.matrix("h.0.mlp.c_fc.weight").rows == 2
    with pytest.raises(InputError, match=r"m: the neurons of this family \(model type 'gpt2'\) are not known: h.0.mlp"):
        _ = architecture.layers


def test_fingerprint_follows_contents_not_places(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    one = fingerprint(open_checkpoint(checkpoints.write(tmp_path / "one", weights)))
    assert one == fingerprint(open_checkpoint(checkpoints.write(tmp_path / "two", weights)))
    changed = {**weights, "model.norm.weight": weights["model.norm.weight"] + 1e-6}
    assert one != fingerprint(open_checkpoint(checkpoints.write(tmp_path / "one", changed)))


def test_large_files_are_sampled_in_every_tensor(tmp_path: Path, weights, monkeypatch: pytest.MonkeyPatch) -> None:
    # Read whole, small files would hide a sample that is missing.
    monkeypatch.setattr(sys.modules["nmerge_core.checkpoints.fingerprint"], "_WHOLE_BYTES", 0)
    found = set()
    for number, name in enumerate(("model.norm.weight", "model.layers.1.mlp.up_proj.weight", "none")):
        changed = {key: value + (key == name) for key, value in weights.items()}
        found.add(fingerprint(open_checkpoint(checkpoints.write(tmp_path / str(number), changed))))
    assert len(found) == 3


def test_labels_are_short_and_distinct() -> None:
    assert label("org/Qwen2.5-7B") == "Qwen2.5-7B" and label("/models/math/") == "math"
    assert labels(["a/math", "b/math", "b/code"]) == ["a/math", "b/math", "code"]


def test_what_is_not_a_model_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder; expected a folder with config.json"):
        resolve(str(tmp_path / "none"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="weights, found a file"):
        resolve(str(tmp_path / "file"))
    with pytest.raises(
        InputError, match="expected a model .config.json and model.safetensors., found no weights, only file"
    ):
        open_checkpoint(str(tmp_path))
    with pytest.raises(InputError, match="the Hub did not give a model of that id"):
        resolve("nobody/nothing-of-that-name")


def test_a_fetched_model_is_used_without_asking_the_hub(
    tmp_path: Path, weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--org--name/snapshots" / ("0" * 40)
    checkpoints.write(snapshot, weights)
    (tmp_path / "models--org--name/refs").mkdir()
    (tmp_path / "models--org--name/refs/main").write_text("0" * 40)
    assert open_checkpoint("org/name").folder == snapshot


def test_family_report(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    base = checkpoints.write(tmp_path / "base", weights)
    half = checkpoints.write(tmp_path / "half", {name: value.half() for name, value in weights.items()}, rope_theta=5.0)
    for folder, tokens in ((base, {"a": 0, "b": 1}), (half, {"a": 0, "c": 1})):
        (Path(folder) / "tokenizer.json").write_text(json.dumps({"model": {"vocab": tokens}}))
    padded = checkpoints.write(
        tmp_path / "padded", {**weights, "model.embed_tokens.weight": torch.zeros(22, 8)}, vocab_size=22
    )
    cut = checkpoints.write(tmp_path / "cut", {**weights, "model.embed_tokens.weight": torch.zeros(1, 8)}, vocab_size=1)
    report = inspect_family(base, [half, padded, cut, "nowhere"])
    facts = report.models[0]
    # Embeddings 20·8, per layer 2·8·8 + 2·4·8 attention and 3·12·8 MLP weights; point: 8 + 2·(8 + 4 + 4 + 8 + 8).
    assert (facts.neuronal, facts.point) == (160 + 2 * (192 + 288), 8 + 2 * 32)
    assert (facts.heads, facts.kv_heads, facts.dtype, facts.tied) == (2, 1, "F32", True)
    assert not report.mergeable
    assert any("cut: shapes differ from the base (tokens were added to its vocabulary)" in e for e in report.errors)
    assert not any("padded" in error for error in report.errors)
    assert any("padded: the base's tokens in 22 embedding rows where the base has 20" in w for w in report.warnings)
    assert any(error.startswith("nowhere: no such folder") for error in report.errors)
    assert "half: dtype F16 where the base has F32" in report.warnings
    # Row 1 is b in the base and c in the fine-tune: its row is no change of b's.
    expected = "half: its vocabulary is not the base's: tokens 1 added ('c'), 1 missing ('b'); a recipe needs the key"
    assert any(warning.startswith(expected) for warning in report.warnings) and report.needs_tokenizer
    said = "key 'rope_parameters.rope_theta': 5.0 where the base has 10000.0; the merge takes the base's"
    assert f"half: config.json, {said}" in report.warnings


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model": 1}', '{"model": {}, "added_tokens": [{}]}'])
def test_a_corrupt_tokenizer_is_a_warning_of_the_report(tmp_path: Path, weights, content: str) -> None:
    base, model, other = (checkpoints.write(tmp_path / name, weights) for name in ("base", "model", "other"))
    for folder in (base, model, other):
        (Path(folder) / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    (Path(model) / "tokenizer.json").write_text(content)
    report = inspect_family(base, [model, other])
    assert report.mergeable and len(report.models) == 3
    (warning,) = report.warnings
    assert warning.startswith(f"{Path(model) / 'tokenizer.json'}: ") and "JSON" in warning
    assert inspect_family(model, [base, other]).warnings == (warning,)  # the base's, told once
