import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nmerge_core.errors import InputError
from nmerge_core.similarity import blocks
from nmerge_core.similarity.measure import cosine
from tests.tiny import D_FFN, LAYERS, tiny_model

GATE = "model.layers.0.mlp.gate_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"


def variant(base: str, folder: Path, change) -> str:
    """A copy of a checkpoint with its tensors changed in place by `change`."""
    folder.mkdir()
    weights = load_file(Path(base) / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text((Path(base) / "config.json").read_text())
    return str(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("models") / "base")


def neuron_weights(model: Path, layer: int, neuron: int) -> list[torch.Tensor]:
    weights = load_file(model / "model.safetensors")
    gate, up, down = (weights[f"model.layers.{layer}.mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
    return [gate[neuron], up[neuron], down[:, neuron]]


def one(frame, **where):
    found = frame.query(" and ".join(f"{key} == {value!r}" for key, value in where.items()))
    assert len(found) == 1
    return found.iloc[0]


def test_hand_computed_rows_and_columns(base, tmp_path):
    def start(weights):
        weights[GATE][3] = torch.tensor([3.0, 4.0] + [0.0] * 30)
        weights[DOWN][:, 5] = torch.tensor([1.0, 0.0, 0.0, 1.0] + [0.0] * 28)

    def turn(weights):
        start(weights)
        weights[GATE][3] = torch.tensor([4.0, 3.0] + [0.0] * 30)  # (3·4 + 4·3) / (5·5) = 24 / 25
        weights[DOWN][:, 5] = torch.tensor([2.0, 0.0, 0.0, 0.0] + [0.0] * 28)  # 2 / (√2 · 2) = 1 / √2

    found = cosine(variant(base, tmp_path / "start", start), [variant(base, tmp_path / "turned", turn)], lowest=2)
    assert one(found.moved, matrix="gate", layer=0, neuron=3).cosine == pytest.approx(24 / 25, abs=1e-12)
    assert one(found.moved, matrix="down", layer=1, neuron=5).cosine == pytest.approx(1 / math.sqrt(2), abs=1e-12)
    summary = one(found.summary, matrix="gate", layer=0)
    assert summary["min"] == pytest.approx(0.96, abs=1e-12)
    assert summary["mean"] == pytest.approx((D_FFN - 1 + 0.96) / D_FFN, abs=1e-12)
    [whole] = [row for row in found.neurons.itertuples() if (row.layer, row.neuron) == (0, 3)]
    rest = sum(w.square().sum().item() for w in neuron_weights(Path(base), 0, 3)[1:])  # its up and its down, unchanged
    # gate has ⟨θ0, θ⟩ = 24 and ‖θ0‖² = ‖θ‖² = 25, so that ‖θ − θ0‖² = 25 + 25 − 2 · 24 = 2
    assert whole.cosine == pytest.approx((24 + rest) / (25 + rest), abs=1e-6)
    assert whole.change == pytest.approx(math.sqrt(2 / (25 + rest)), rel=1e-5)
    untouched = one(found.summary, matrix="up", layer=1)
    assert (untouched["mean"], untouched["min"], untouched["p01"], untouched["p50"]) == (1, 1, 1, 1)


def test_agrees_with_torch_whatever_the_block(base, tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(1)

    def drift(weights):
        for tensor in weights.values():
            tensor += 0.3 * torch.randn(tensor.shape, generator=generator)

    tuned = variant(base, tmp_path / "tuned", drift)
    ours, theirs = (load_file(Path(model) / "model.safetensors") for model in (base, tuned))
    for block in (1, 100, 1 << 20):
        monkeypatch.setattr(blocks, "_BLOCK", block)
        found = cosine(base, [tuned], lowest=D_FFN * LAYERS)
        for matrix, axis in (("gate", 1), ("up", 1), ("down", 0)):
            for layer in range(LAYERS):
                name = f"model.layers.{layer}.mlp.{matrix}_proj.weight"
                expected = torch.cosine_similarity(ours[name].double(), theirs[name].double(), dim=axis).numpy()
                rows = found.moved.query(f"matrix == '{matrix}' and layer == {layer}").sort_values("neuron")
                np.testing.assert_allclose(rows["cosine"], expected, rtol=1e-12)
                summary = one(found.summary, matrix=matrix, layer=layer)
                assert summary["p01"] == pytest.approx(np.quantile(expected, 0.01))
                assert summary["p50"] == pytest.approx(np.median(expected))


def test_zero_vectors_are_counted_and_not_averaged(base, tmp_path):
    def silence(weights):
        weights[GATE][[1, 4]] = 0
        weights[DOWN][:, 7] = 0
        weights["model.layers.1.mlp.gate_proj.weight"][:] = 0

    found = cosine(base, [variant(base, tmp_path / "silenced", silence)], lowest=D_FFN * LAYERS)
    gate = one(found.summary, matrix="gate", layer=0)
    assert (gate["neurons"], gate["zero"], gate["mean"]) == (D_FFN, 2, 1)
    assert one(found.summary, matrix="down", layer=1)["zero"] == 1
    silent = one(found.summary, matrix="gate", layer=1)
    assert silent["zero"] == D_FFN
    assert np.isnan(silent["mean"])
    assert found.moved["cosine"].notna().all()
    assert len(found.moved) == 3 * LAYERS * D_FFN - 2 - 1 - D_FFN


def test_the_lowest_are_listed_per_model_and_matrix_over_all_layers(base, tmp_path):
    def turn(weights):
        weights[GATE][9] *= -1  # cosine -1
        weights["model.layers.1.mlp.gate_proj.weight"][2] *= -1
        weights["model.layers.1.mlp.gate_proj.weight"][3, 0] += 1

    first, second = (variant(base, tmp_path / name, turn) for name in ("first", "second"))
    found = cosine(base, [first, second], lowest=3)
    assert found.moved.groupby(["model", "matrix"]).size().tolist() == [3] * 6
    listed = found.moved.query("model == 'second' and matrix == 'gate'")
    assert list(zip(listed["layer"], listed["neuron"], strict=True)) == [(0, 9), (1, 2), (1, 3)]
    assert listed["cosine"].tolist()[:2] == pytest.approx([-1, -1], abs=1e-12)
    assert list(found.summary) == ["model", "layer", "matrix", "neurons", "mean", "min", "p01", "p50", "zero"]


def test_another_shape_or_a_missing_matrix_is_named(base, tmp_path):
    def narrow(weights):
        weights[GATE] = weights[GATE][:40].contiguous()

    def lose(weights):
        del weights[GATE]

    with pytest.raises(InputError, match=r"gate_proj.weight: expected shape \[48, 32\] as in .*, found \[40, 32\]"):
        cosine(base, [variant(base, tmp_path / "narrow", narrow)])
    with pytest.raises(InputError, match="no tensor 'model.layers.0.mlp.gate_proj.weight'"):
        cosine(base, [variant(base, tmp_path / "lossy", lose)])


def test_weights_that_are_far_smaller_than_the_base_s_keep_their_direction(base, tmp_path):
    generator = torch.Generator().manual_seed(0)

    def change(weights):
        weights[GATE] += 0.5 * torch.randn(weights[GATE].shape, generator=generator)
        weights[GATE] *= 1e-9

    model = variant(base, tmp_path / "faded", change)
    before, after = (load_file(Path(each) / "model.safetensors")[GATE].double() for each in (base, model))
    expected = torch.nn.functional.cosine_similarity(before, after, dim=1, eps=0)
    found = one(cosine(base, [model]).summary, layer=0, matrix="gate")
    assert found["mean"] == pytest.approx(float(expected.mean()), abs=1e-7) and found["zero"] == 0
