"""What a merge kept of its fine-tunes, neuron by neuron, against figures worked out by hand and from all weights."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from nmerge_core.checkpoints import rows
from nmerge_core.errors import InputError
from nmerge_core.inheritance.measure import inherited, neuron_changes
from nmerge_core.similarity import blocks
from tests.families import Family, family_of, layer_number, neuron_ids
from tests.similarity.test_measure import variant
from tests.tiny import D_FFN, LAYERS, tiny_model

GATE, UP, DOWN = (f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up", "down"))


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory) -> SimpleNamespace:
    """Neuron 3 of layer 0: θ0 = (3, 4) in gate; math adds (1, 0) and 2 in down, code 3 in up and 1 in down.

    The merge is half of math and all of code: Δ = 0.5 in gate, 3 in up, 1 + 1 in down.
    """
    root = tmp_path_factory.mktemp("models")
    plain = tiny_model(root / "plain")

    def start(weights):
        weights[GATE][3], weights[UP][3], weights[DOWN][:, 3] = 0, 0, 0
        weights[GATE][3, :2] = torch.tensor([3.0, 4.0])

    base = variant(plain, root / "base", start)
    changes = {"math": (1.0, 0.0, 2.0), "code": (0.0, 3.0, 1.0), "merge": (0.5, 3.0, 2.0)}
    made = {}
    for name, (gate, up, down) in changes.items():

        def change(weights, gate=gate, up=up, down=down):
            weights[GATE][3, 0] += gate
            weights[UP][3, 5] += up
            weights[DOWN][7, 3] += down

        made[name] = variant(base, root / name, change)
    return SimpleNamespace(base=base, **made)


# ‖τ_math‖² = 1 + 4 = 5, ‖τ_code‖² = 9 + 1 = 10, ‖Δ‖² = 0.25 + 9 + 4 = 13.25, ‖θ0‖² = 9 + 16 = 25
# ⟨Δ, τ_math⟩ = 0.5 + 2 · 2 = 4.5, ⟨Δ, τ_code⟩ = 3 · 3 + 2 · 1 = 11, ⟨τ_math, τ_code⟩ = 2 · 1 = 2
SQUARES = np.array([5.0, 10.0, 13.25])
PRODUCTS = np.array([[5.0, 2.0, 4.5], [2.0, 10.0, 11.0], [4.5, 11.0, 13.25]])


def test_one_neuron_by_hand(by_hand: SimpleNamespace) -> None:
    found = neuron_changes(by_hand.base, [by_hand.math, by_hand.code], [by_hand.merge], 0, 3)
    np.testing.assert_allclose(found.sizes, np.sqrt(SQUARES) / 5)
    along = 3 * np.array([1.0, 0, 0.5])  # ⟨τ, θ0⟩: what is changed of gate, where θ0 has 3
    np.testing.assert_allclose(found.parallel, along**2 / (25 * SQUARES))
    np.testing.assert_allclose(found.kept, [[0.9, 1.1]])  # 4.5 / 5, 11 / 10
    np.testing.assert_allclose(found.cosines, PRODUCTS / np.sqrt(np.outer(SQUARES, SQUARES)))
    table = found.table(["math", "code"], ["ours"])
    assert table.to_dict("list") == {
        "merge": ["ours", "ours"],
        "model": ["math", "code"],
        "kept": pytest.approx([0.9, 1.1]),
        "cosine": pytest.approx([4.5 / (5 * 13.25) ** 0.5, 11 / (10 * 13.25) ** 0.5]),
        "change": pytest.approx([5**0.5 / 5, 10**0.5 / 5]),
        "merge_change": pytest.approx([13.25**0.5 / 5] * 2),
    }
    # math and code both changed one weight of down, upwards; so did the merge, and gate with math, up with code.
    np.testing.assert_array_equal(found.opposed, np.zeros((3, 3)))
    assert found.between(["math", "code"]).to_dict("list") == {
        "one": ["math"],
        "other": ["code"],
        "cosine": pytest.approx([2 / 50**0.5]),
        "opposed": [0.0],
    }
    assert found.own(["math", "code", "ours"]).set_index("model")["parallel"].to_dict() == pytest.approx(
        {"math": 9 / 125, "code": 0, "ours": 2.25 / (25 * 13.25)}
    )


def test_the_sign_conflict_of_two_changes_by_hand(by_hand: SimpleNamespace, tmp_path: Path) -> None:
    """Of four weights math moves three, (1, 1, 1, 0), and code all, (-1, 2, 3, 4): both three, one opposite ways."""
    moved = {"math": [1.0, 1.0, 1.0, 0.0], "code": [-1.0, 2.0, 3.0, 4.0]}

    def change(weights, by):
        weights[UP][3, :4] += torch.tensor(by)

    tuned = [variant(by_hand.base, tmp_path / name, lambda w, by=by: change(w, by)) for name, by in moved.items()]
    found = neuron_changes(by_hand.base, tuned, [], 0, 3)
    np.testing.assert_allclose(found.opposed, [[0, 1 / 3], [1 / 3, 0]])
    # ⟨τ_math, τ_code⟩ = -1 + 2 + 3 = 4, ‖τ_math‖² = 3, ‖τ_code‖² = 1 + 4 + 9 + 16 = 30
    assert found.between(["math", "code"])["cosine"].tolist() == pytest.approx([4 / 90**0.5])
    assert found.table(["math", "code"], []).empty


def test_what_nobody_changed_has_neither_share_nor_direction(by_hand: SimpleNamespace) -> None:
    found = neuron_changes(by_hand.base, [by_hand.math], [by_hand.merge], 1, 4)
    assert list(found.sizes) == [0, 0] and np.isnan(found.kept).all() and np.isnan(found.cosines).all()


def test_all_neurons_by_hand(by_hand: SimpleNamespace) -> None:
    frame = inherited(by_hand.merge, by_hand.base, [by_hand.math, by_hand.code])
    assert len(frame) == 2 * LAYERS * D_FFN
    moved = frame[frame["change"] > 0]
    assert moved[["layer", "neuron", "model"]].values.tolist() == [[0, 3, "math"], [0, 3, "code"]]
    assert moved["change"].tolist() == pytest.approx([5**0.5, 10**0.5])
    assert moved["kept"].tolist() == pytest.approx([0.9, 1.1])
    assert moved["cosine"].tolist() == pytest.approx([4.5 / (5 * 13.25) ** 0.5, 11 / (10 * 13.25) ** 0.5])
    assert frame.drop(moved.index)[["kept", "cosine"]].isna().all(axis=None)


def gathered(family: Family, weights: dict[str, torch.Tensor], layer: int, neuron: int) -> torch.Tensor:
    """A neuron's entries of every tensor of its layer, in one order for all models."""
    own = [torch.empty(0)]
    for name, tensor in sorted(weights.items()):
        ids = neuron_ids(family, name, tensor.shape) if layer_number(family, name) == layer else None
        own += [] if ids is None else [tensor[ids == neuron]]
    return torch.cat(own).double()


@pytest.mark.parametrize("title", ["Llama", "Phi-3", "GPT-2", "gpt-oss", "Qwen3-MoE, experts stacked", "DeepSeek-V3"])
def test_neurons_are_gathered_from_all_that_is_theirs(title: str, made_family, monkeypatch: pytest.MonkeyPatch) -> None:
    family = family_of(title)
    models = made_family(family)
    monkeypatch.setattr(blocks, "_BLOCK", 50)
    frame = inherited(models.code, models.base, [models.math]).set_index(["layer", "neuron"])
    assert len(frame) == sum(family.neurons)
    for layer, width in enumerate(family.neurons):
        for neuron in (0, width // 2, width - 1):
            start, math, code = (
                gathered(family, weights, layer, neuron) for weights in (models.weights, *models.tunes)
            )
            tune, merge = math - start, code - start
            found = neuron_changes(models.base, [models.math], [models.code], layer, neuron)
            assert found.sizes == pytest.approx([float(each.norm() / start.norm()) for each in (tune, merge)])
            kept = float(tune @ merge / (tune @ tune))
            assert found.kept[0, 0] == pytest.approx(kept)
            assert frame.at[(layer, neuron), "kept"] == pytest.approx(kept, rel=1e-5)
            assert frame.at[(layer, neuron), "change"] == pytest.approx(float(tune.norm()), rel=1e-6)


def test_of_one_neuron_its_own_weights_alone_are_read(
    by_hand: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    fill = rows._fill
    monkeypatch.setattr(rows, "_fill", lambda *given: read.append(len(given[2])) or fill(*given))
    neuron_changes(by_hand.base, [by_hand.math], [by_hand.merge], 0, 3)
    assert sum(read) == 3 * 3 * 32 * 4  # three models, three vectors of 32 entries in float32


@pytest.mark.parametrize(
    ("place", "said"),
    [((2, 0), "no neuron 0 of layer 2; there are 2 layers"), ((1, 48), "no neuron 48 of layer 1; layer 1 has neurons")],
)
def test_a_neuron_that_there_is_not_is_said(by_hand: SimpleNamespace, place: tuple[int, int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        neuron_changes(by_hand.base, [by_hand.math], [by_hand.merge], *place)


def test_a_merge_of_another_shape_is_said(by_hand: SimpleNamespace, tmp_path: Path) -> None:
    def narrow(weights):
        weights[GATE] = weights[GATE][:40].contiguous()

    with pytest.raises(InputError, match=r"gate_proj.weight: expected shape \[48, 32\] as in .*, found \[40, 32\]"):
        inherited(variant(by_hand.base, tmp_path / "narrow", narrow), by_hand.base, [by_hand.math])


def test_the_table_reads_back_as_it_was_written(by_hand: SimpleNamespace, tmp_path: Path) -> None:
    frame = inherited(by_hand.merge, by_hand.base, [by_hand.math])
    frame.to_parquet(tmp_path / "inherited.parquet", index=False)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "inherited.parquet"), frame)
