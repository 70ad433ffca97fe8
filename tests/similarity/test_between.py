"""What fine-tunes changed in neurons, beside the base and each other, by hand and against all weights gathered."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from nmerge_core.similarity import blocks
from nmerge_core.similarity.measure import cosine
from tests.families import as_matrix, family_of, layer_number, neuron_ids
from tests.similarity.test_measure import variant
from tests.tiny import D_FFN, LAYERS, tiny_model

GATE, UP, DOWN = (f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up", "down"))
TUNES = ["math", "code", "translation"]


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory) -> SimpleNamespace:
    """Neuron 3 of layer 0 with θ0 = (3, 4) in gate, whose first entry, and one each of up and down, fine-tunes change.

    Neuron 4 is zero in the base; of it math changes the same entry of gate.
    """
    root = tmp_path_factory.mktemp("models")

    def start(weights):
        for neuron in (3, 4):
            weights[GATE][neuron], weights[UP][neuron], weights[DOWN][:, neuron] = 0, 0, 0
        weights[GATE][3, :2] = torch.tensor([3.0, 4.0])

    base = variant(tiny_model(root / "plain"), root / "base", start)
    made = {}
    for name, (gate, up, down) in {"math": (1, 0, 2), "code": (0, 3, 1), "translation": (-2, 3, -1)}.items():

        def change(weights, gate=gate, up=up, down=down, name=name):
            weights[GATE][3, 0] += gate
            weights[UP][3, 5] += up
            weights[DOWN][7, 3] += down
            weights[GATE][4, 0] += name == "math"

        made[name] = variant(base, root / name, change)
    return SimpleNamespace(base=base, found=cosine(base, list(made.values())), **made)


def of_neuron(frame: pd.DataFrame, layer: int, neuron: int, *keys: str) -> pd.DataFrame:
    return frame.query(f"layer == {layer} and neuron == {neuron}").set_index([*keys])


def test_changes_by_hand(by_hand: SimpleNamespace) -> None:
    rows = of_neuron(by_hand.found.neurons, 0, 3, "model")
    assert list(rows.index) == TUNES
    # ‖τ‖² = 1 + 4, 9 + 1 and 4 + 9 + 1; ‖θ0‖² = 9 + 16 = 25
    assert list(rows["change"]) == pytest.approx([(each / 25) ** 0.5 for each in (5, 10, 14)])
    # ⟨θ0, τ⟩ = 3 · 1, 0 and 3 · −2, and the parallel share is ⟨θ0, τ⟩² / (‖θ0‖² ‖τ‖²)
    assert list(rows["parallel"]) == pytest.approx([9 / (25 * 5), 0, 36 / (25 * 14)])
    # ‖θ‖² = 25 + 2⟨θ0, τ⟩ + ‖τ‖² = 36, 35 and 27
    assert list(rows["cosine"]) == pytest.approx([28 / (25 * 36) ** 0.5, 25 / (25 * 35) ** 0.5, 19 / (25 * 27) ** 0.5])


def test_every_two_fine_tunes_by_hand(by_hand: SimpleNamespace) -> None:
    rows = of_neuron(by_hand.found.between, 0, 3, "one", "other")
    assert list(rows.index) == [("math", "code"), ("math", "translation"), ("code", "translation")]
    # ⟨τ, τ⟩ = 2 · 1; 1 · −2 + 2 · −1; 3 · 3 + 1 · −1
    assert list(rows["cosine"]) == pytest.approx([2 / 50**0.5, -4 / 70**0.5, 8 / 140**0.5])
    # math and code both changed down, the same way; math and translation gate and down, both opposite; code and
    # translation up the same way and down opposite
    assert list(rows["opposed"]) == [0, 1, 0.5]


def test_what_has_no_direction_has_no_number(by_hand: SimpleNamespace) -> None:
    silent = of_neuron(by_hand.found.neurons, 0, 4, "model")
    assert silent[["cosine", "change"]].isna().all(axis=None)
    np.testing.assert_array_equal(silent["parallel"], [0, np.nan, np.nan])  # orthogonal to nothing; no change
    assert of_neuron(by_hand.found.between, 0, 4, "one", "other")[["cosine", "opposed"]].isna().all(axis=None)
    untouched = of_neuron(by_hand.found.neurons, 1, 3, "model")
    assert untouched[["cosine", "change"]].to_numpy().tolist() == [[1, 0]] * 3 and untouched["parallel"].isna().all()
    assert len(by_hand.found.neurons) == len(by_hand.found.between) == 3 * LAYERS * D_FFN


def test_one_fine_tune_has_nothing_beside_it_and_order_changes_nothing(by_hand: SimpleNamespace) -> None:
    alone = cosine(by_hand.base, [by_hand.math])
    assert alone.between.empty and list(alone.between) == ["one", "other", "layer", "neuron", "cosine", "opposed"]
    swapped = cosine(by_hand.base, [by_hand.translation, by_hand.math])
    both = by_hand.found.between.query("one == 'math' and other == 'translation'")
    assert set(swapped.between["one"]) == {"translation"}
    for measure in ("cosine", "opposed"):
        np.testing.assert_array_equal(swapped.between[measure], both[measure])
    for measure in ("cosine", "change", "parallel"):
        same = (frame.query("model == 'math'")[measure] for frame in (swapped.neurons, by_hand.found.neurons))
        np.testing.assert_array_equal(*same)


@pytest.mark.parametrize("title", ["Llama", "Phi-3", "GPT-2", "gpt-oss", "Qwen3-MoE, experts stacked", "DeepSeek-V3"])
def test_neurons_equal_all_their_weights_gathered(title: str, made_family, monkeypatch: pytest.MonkeyPatch) -> None:
    family = family_of(title)
    models = made_family(family)
    monkeypatch.setattr(blocks, "_BLOCK", 50)
    found = cosine(models.base, [models.math, models.code])
    of_one = found.neurons.set_index(["model", "layer", "neuron"])
    of_two = found.between.set_index(["layer", "neuron"])
    assert len(of_two) == sum(family.neurons)
    for layer, width in enumerate(family.neurons):
        gathered: list[list[torch.Tensor]] = [[], [], []]  # of base, math and code, each tensor's own entries and ids
        ids = []
        for name, tensor in sorted(models.weights.items()):
            own = neuron_ids(family, name, tensor.shape) if layer_number(family, name) == layer else None
            if own is None or as_matrix(family, name, tensor).dim() < 2:
                continue
            ids.append(own.flatten())
            for entries, weights in zip(gathered, (models.weights, *models.tunes), strict=True):
                entries.append(weights[name].flatten().double())
        owner, (start, *tuned) = torch.cat(ids), [torch.cat(entries) for entries in gathered]
        for neuron in range(width):
            theta = start[owner == neuron]
            math, code = (each[owner == neuron] - theta for each in tuned)
            two = of_two.loc[(layer, neuron)]
            assert two["cosine"] == pytest.approx(float(math @ code / (math.norm() * code.norm())), abs=1e-6)
            shared = (math != 0) & (code != 0)
            opposed = float(((math > 0) != (code > 0))[shared].double().mean())
            assert two["opposed"] == pytest.approx(opposed, abs=1e-6)
            for name, tau in (("math", math), ("code", code)):
                one = of_one.loc[(name, layer, neuron)]
                along = float((tau @ theta / theta.norm() ** 2 * theta).norm() ** 2 / tau.norm() ** 2)
                assert one["parallel"] == pytest.approx(along, rel=1e-5, abs=1e-9)
                assert one["change"] == pytest.approx(float(tau.norm() / theta.norm()), rel=1e-6)
