"""Knock-out: which neurons go, and that switching them off is the same as zeroing their weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from nmerge_core.ablation import category_neurons, knockout, plan
from nmerge_core.activations.store import open_classification
from nmerge_core.classification import classify
from nmerge_core.errors import Cancelled, InputError
from nmerge_core.evaluation import evaluate
from tests.tiny import D_FFN, TEXTS, tiny_model, write_corpus

MEMBERS = {1: np.array([3, 5, 8, 13, 21, 34, 40, 41, 42, 43]), 4: np.array([0, 7])}
WIDTHS = {1: 48, 4: 9}


def test_sizes_of_groups() -> None:
    """10 neurons in layer 1 and 2 in layer 4: 25 % is round(2.5) = 2 and round(0.5) = 0, 80 % is 8 and 2."""
    trials = list(plan(MEMBERS, WIDTHS, "code", [0.25, 0.8, 1.0], [7, 8]))
    assert [(trial.group, trial.proportion, trial.seed) for trial in trials] == [
        *[("code", proportion, 7) for proportion in (0.25, 0.8, 1.0)],
        *[("random", proportion, seed) for seed in (7, 8) for proportion in (0.25, 0.8, 1.0)],
    ]
    assert [trial.size for trial in trials] == [2, 10, 12] * 3
    assert [len(trial.neurons[4]) for trial in trials] == [0, 2, 2] * 3


def test_larger_shares_contain_smaller_ones() -> None:
    trials = list(plan(MEMBERS, WIDTHS, "code", [0.2, 0.4, 0.6, 0.8, 1.0], [0, 1, 2]))
    for before, after in zip(trials, trials[1:], strict=False):
        if (before.group, before.seed) == (after.group, after.seed):
            assert all(set(before.neurons[layer]) <= set(after.neurons[layer]) for layer in MEMBERS)
    assert all(np.array_equal(trials[4].neurons[layer], MEMBERS[layer]) for layer in MEMBERS)


def test_control_is_drawn_from_all_neurons_of_the_layer_by_its_seed() -> None:
    trials = list(plan(MEMBERS, WIDTHS, "code", [1.0], range(200)))[1:]
    drawn = [trial.neurons[1] for trial in trials]
    assert all(len(set(indices)) == 10 and indices.max() < 48 for indices in drawn)
    assert len({tuple(indices) for indices in drawn}) == 200
    counts = np.bincount(np.concatenate(drawn), minlength=48)
    assert counts.min() > 15  # 200 · 10 / 48 ≈ 42 expected, ± 5.7
    narrow = {neuron for trial in trials for neuron in trial.neurons[4]}
    assert narrow == set(range(9))  # those of its own layer, fewer
    again = list(plan(MEMBERS, WIDTHS, "code", [1.0], range(200)))[1:]
    assert all(np.array_equal(a.neurons[1], b.neurons[1]) for a, b in zip(trials, again, strict=True))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its classification and a task."""
    folder = tmp_path_factory.mktemp("knockout")
    tiny_model(folder / "model")
    classify(str(folder / "model"), write_corpus(folder / "corpus", TEXTS), folder / "neurons", top_k=3, margin=1)
    shipped = Path(__file__).parents[1] / "nmerge_core" / "demo" / "tasks" / "general.yaml"
    (folder / "general.yaml").write_text(shipped.read_text())
    texts = TEXTS["code"] + TEXTS["math"]
    (folder / "general.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


def arguments(place: Path) -> dict:
    return {"model": str(place / "model"), "neurons": place / "neurons", "task": str(place / "general.yaml")}


def zeroed(place: Path, neurons: dict[int, np.ndarray]) -> str:
    """A copy of the model whose down matrix has zeros in these neurons' columns."""
    model = AutoModelForCausalLM.from_pretrained(place / "model")
    with torch.no_grad():
        for layer, indices in neurons.items():
            model.model.layers[layer].mlp.down_proj.weight[:, indices] = 0
    folder = place / "zeroed"
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(place / "model").save_pretrained(folder)
    return str(folder)


def test_curve_and_control(place: Path) -> None:
    found = knockout(**arguments(place), category="code", layers=[0, 1], proportions=[1.0, 0.5], repeats=2, seed=5)
    assert list(found.columns) == ["group", "proportion", "neurons", "seed", "metric", "value", "run_dtype"]
    assert set(found["metric"]) == {"word_perplexity", "bits_per_byte"} and found["metric"][0] == "word_perplexity"
    bits = found[found["metric"] == "bits_per_byte"]
    assert list(zip(bits["group"], bits["seed"], bits["proportion"], strict=True)) == [
        ("code", 5, 0.0),
        ("random", 5, 0.0),
        ("random", 6, 0.0),
        *[(group, seed, share) for group, seed in (("code", 5), ("random", 5), ("random", 6)) for share in (0.5, 1.0)],
    ]
    members = category_neurons(open_classification(place / "neurons"), "code", [0, 1])
    total = sum(len(indices) for indices in members.values())
    assert 0 < total < 2 * D_FFN
    assert set(bits.loc[bits["proportion"] == 1.0, "neurons"]) == {total}

    value = bits.set_index(["group", "seed", "proportion"])["value"]
    plain = evaluate([str(place / "model")], [str(place / "general.yaml")]).set_index("metric")["value"]
    off = evaluate([zeroed(place, members)], [str(place / "general.yaml")]).set_index("metric")["value"]
    assert value["code", 5, 0.0] == value["random", 6, 0.0] == pytest.approx(plain["bits_per_byte"])
    assert value["code", 5, 1.0] == pytest.approx(off["bits_per_byte"], rel=1e-6)
    assert value["code", 5, 1.0] != pytest.approx(plain["bits_per_byte"], rel=1e-4)
    assert value["random", 5, 1.0] != value["random", 6, 1.0]


def test_the_same_request_gives_the_same_rows(place: Path) -> None:
    first, second = (
        knockout(**arguments(place), category="math", layers=[1], proportions=[0.5], repeats=1, limit=2)
        for _ in range(2)
    )
    assert first.equals(second)


def test_progress_counts_measurements_and_cancels(place: Path) -> None:
    reports: list[tuple[float, float]] = []

    def remember(stage: str, done: float, total: float, unit: str = "") -> None:
        reports.append((done, total))
        if done > 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        knockout(
            **arguments(place), category="code", layers=[0], proportions=[0.5, 1], repeats=1, limit=1, progress=remember
        )
    assert {total for _, total in reports} == {5}  # intact, two of the category, two random
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"category": "cooking"}, "no category 'cooking'; it has general, code, math"),
        ({"layers": [0, 2]}, "no layer 2; it has layers 0 to 1"),
        ({"layers": []}, "no neuron of category 'code'"),
        ({"proportions": [20]}, "proportions.*found 20; 20 % is 0.2"),
        ({"proportions": [0.0]}, "proportions.*found 0"),
        ({"proportions": []}, "at least one"),
        ({"repeats": 0}, "repeats.*at least 1"),
        ({"seed": -1}, "seed: expected a whole number from 0, found -1"),
        ({"neurons": Path("nowhere")}, "nowhere"),
    ],
)
def test_wrong_input(place: Path, changes: dict, message: str) -> None:
    request = {**arguments(place), "category": "code", "layers": [0], "proportions": [0.5], **changes}
    with pytest.raises(InputError, match=message):
        knockout(**request)


def test_a_folder_of_another_kind_of_model(place: Path) -> None:
    other = AutoModelForCausalLM.from_pretrained(place / "model").config
    other.intermediate_size = 64
    folder = place / "wide"
    AutoModelForCausalLM.from_config(other).save_pretrained(folder)
    AutoTokenizer.from_pretrained(place / "model").save_pretrained(folder)
    request = {**arguments(place), "model": str(folder), "category": "code", "layers": [0], "proportions": [0.5]}
    with pytest.raises(
        InputError, match="expected a classification of wide, with 64 neurons in layer 0, found 48 there"
    ):
        knockout(**request)
