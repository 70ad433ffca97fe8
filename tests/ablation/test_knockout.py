"""Knock-outs of a tiny model: switching neurons off is the same as zeroing their weights, whatever is measured."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from nmerge_core.ablation import category_neurons, effects, knockout
from nmerge_core.ablation.measuring import open_scale
from nmerge_core.activations.store import open_classification
from nmerge_core.classification.classification import classify
from nmerge_core.errors import Cancelled, InputError
from nmerge_core.evaluation import evaluate
from nmerge_core.evaluation.loss import held_out_losses
from nmerge_core.loading import load_model
from nmerge_core.progress import silent
from tests.tiny import D_FFN, TEXTS, tiny_model, write_corpus


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its classification, a corpus and a task."""
    folder = tmp_path_factory.mktemp("knockout")
    tiny_model(folder / "model")
    classify(str(folder / "model"), write_corpus(folder / "corpus", TEXTS), folder / "neurons", top_k=3, margin=1)
    shipped = Path(__file__).parents[2] / "nmerge_core" / "demo" / "tasks" / "general.yaml"
    (folder / "general.yaml").write_text(shipped.read_text())
    texts = TEXTS["code"] + TEXTS["math"]
    (folder / "general.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return folder


def members(place: Path, category: str) -> dict[int, np.ndarray]:
    return category_neurons(open_classification(place / "neurons"), category, [0, 1])


def knock(place: Path, out: Path, **changes: Any) -> pd.DataFrame:
    asked: dict[str, Any] = {"category": "code", "layers": None, "task": str(place / "general.yaml")}
    out.mkdir(exist_ok=True)
    return knockout(str(place / "model"), str(place / "neurons"), out=out, **asked | changes)


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


def bits(place: Path, model: str) -> float:
    return float(evaluate([model], [str(place / "general.yaml")]).set_index("metric")["value"]["bits_per_byte"])


def test_curve_and_control(place: Path, tmp_path: Path) -> None:
    found = knock(place, tmp_path, proportions=[1.0, 0.5], repeats=2, seed=5)
    assert list(found.columns) == ["group", "proportion", "neurons", "seed", "metric", "value", "run_dtype"]
    assert set(found["metric"]) == {"word_perplexity", "bits_per_byte"} and found["metric"][0] == "word_perplexity"
    own = found[found["metric"] == "bits_per_byte"]
    assert list(zip(own["group"], own["seed"], own["proportion"], strict=True)) == [
        *[("code", 5, 0.0), ("random", 5, 0.0), ("random", 6, 0.0)],
        *[("code", 5, 0.5), ("code", 5, 1.0), ("code", 6, 0.5)],  # the whole category is the same each time
        *[("random", seed, share) for seed in (5, 6) for share in (0.5, 1.0)],
    ]
    neurons = members(place, "code")
    table = open_classification(place / "neurons").neurons()
    by_layer = table[table["category"] == "code"].groupby("layer")["neuron"].apply(list)
    assert {layer: own.tolist() for layer, own in neurons.items()} == by_layer.to_dict()
    total = sum(len(indices) for indices in neurons.values())
    assert 0 < total < 2 * D_FFN and set(own.loc[own["proportion"] == 1.0, "neurons"]) == {total}
    value = own.set_index(["group", "seed", "proportion"])["value"]
    intact = bits(place, str(place / "model"))
    assert value["code", 5, 0.0] == value["random", 6, 0.0] == pytest.approx(intact)
    assert value["code", 5, 1.0] == pytest.approx(bits(place, zeroed(place, neurons)), rel=1e-6)
    assert value["code", 5, 1.0] != pytest.approx(intact, rel=1e-4)
    assert len({value["random", 5, 1.0], value["random", 6, 1.0], value["code", 5, 0.5], value["code", 6, 0.5]}) == 4
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "knockout.csv"), found)
    of_shares = pd.read_csv(tmp_path / "effects.csv")
    assert list(of_shares["proportion"]) == [0.5, 0.5, 1, 1] and set(of_shares["problems"]) == {
        len(TEXTS["code"] + TEXTS["math"])
    }


def test_only_the_category_is_kept(place: Path, tmp_path: Path) -> None:
    found = knock(place, tmp_path, layers=[1], proportions=[1.0], repeats=1, keep_only=True)
    value = found[found["metric"] == "bits_per_byte"].set_index(["group", "proportion"])["value"]
    kept = members(place, "code")[1]
    rest = np.setdiff1d(np.arange(D_FFN), kept)
    assert value["code", 1.0] == pytest.approx(bits(place, zeroed(place, {1: rest})), rel=1e-6)
    assert value["code", 0.0] == pytest.approx(bits(place, zeroed(place, {1: np.arange(D_FFN)})), rel=1e-6)
    assert value["intact", 1.0] == pytest.approx(bits(place, str(place / "model")), rel=1e-6)
    assert dict(zip(found["group"], found["neurons"], strict=True)) == {
        "intact": D_FFN,
        "code": len(kept),
        "random": len(kept),
    }


def test_a_group_of_tasks_counts_by_its_problems_and_once(place: Path, tmp_path: Path) -> None:
    """Of 6 problems with answer 0 and 2 with 1: the mean is over 8 problems, be it the tasks' or the group's row."""
    choice: dict[str, Any] = {"dataset_path": "json", "test_split": "test", "output_type": "multiple_choice"}
    choice |= {"doc_to_text": "{{q}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{answer}}"}
    choice["metric_list"] = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    for name, answer, count in (("long", 0, 6), ("short", 1, 2)):
        doc = {"q": "1 + 1?", "choices": ["yes", "no"], "answer": answer}
        (tmp_path / f"{name}.jsonl").write_text((json.dumps(doc) + "\n") * count)
        data: dict[str, Any] = {"dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}}}
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"task": name} | choice | data))
    group: dict[str, Any] = {"group": "both", "task": ["long", "short"]}
    group["aggregate_metric_list"] = [{"metric": "acc", "weight_by_size": False}]  # half right, by tasks
    (tmp_path / "both.yaml").write_text(json.dumps(group))
    scale = open_scale(str(tmp_path / "both.yaml"), None, None, run_code=False, allow_task_code=False)
    reading = scale(load_model(str(place / "model"), "cpu"), silent)["acc"]
    assert reading.problems in ([1.0] * 6 + [0.0] * 2, [0.0] * 6 + [1.0] * 2)  # it says the same each time
    assert reading.value == sum(reading.problems) / 8


def test_by_loss_on_the_held_out_texts_of_each_category(place: Path, tmp_path: Path) -> None:
    found = knock(place, tmp_path, task=None, loss=str(place / "corpus[-2:]"), proportions=[1.0], repeats=1)
    assert list(dict.fromkeys(found["metric"])) == ["code/loss", "loss", "general/loss", "math/loss"]
    expected = held_out_losses([zeroed(place, members(place, "code"))], str(place / "corpus[-2:]"))
    value = found[(found["group"] == "code") & (found["proportion"] == 1)].set_index("metric")["value"]
    assert value["loss"] == pytest.approx(expected["loss"].mean(), rel=1e-5)
    for category, own in expected.groupby("category"):
        assert value[f"{category}/loss"] == pytest.approx(own["loss"].mean(), rel=1e-5)


def test_each_category_of_each_layer(place: Path, tmp_path: Path) -> None:
    lists = {"loud": [[1, 3], [1, 0]]}
    found = effects(
        str(place / "model"), str(place / "neurons"), tmp_path, loss=str(place / "corpus[-2:]"), lists=lists, repeats=2
    )
    cells = {
        (category, layer): own
        for category in ("general", "code", "math")
        for layer, own in members(place, category).items()
    }
    cells["loud", 1] = np.array([0, 3])
    rows = found[found["metric"] == "loss"].set_index(["category", "layer"])
    assert set(rows.index) == set(cells)
    assert rows["neurons"].to_dict() == {cell: len(own) for cell, own in cells.items()}
    plain = held_out_losses([str(place / "model")], str(place / "corpus[-2:]"))["loss"].mean()
    assert rows["intact"].to_numpy() == pytest.approx(plain, rel=1e-5)
    for cell in (("code", 0), ("loud", 1)):
        off = held_out_losses([zeroed(place, {cell[1]: cells[cell]})], str(place / "corpus[-2:]"))["loss"].mean()
        assert rows["own"][cell] == pytest.approx(off, rel=1e-5)
        assert rows["effect"][cell] == pytest.approx(off - rows["random"][cell], rel=1e-3)
    measured = [json.loads(line)["off"] for line in (tmp_path / "measured.jsonl").read_text().splitlines() if line]
    assert len(measured) == len(set(measured)) <= 1 + 3 * len(cells)


def test_what_was_stopped_goes_on_after_what_it_measured_last(place: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"layers": [0], "proportions": [0.5, 1], "repeats": 1, "limit": 1}
    reports: list[tuple[float, float]] = []

    def stop(stage: str, done: float, total: float, unit: str = "") -> None:
        reports.append((done, total))
        if done > 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        knock(place, tmp_path, **asked, progress=stop)
    assert {total for _, total in reports} == {5}  # intact, two of the category, two random
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    journal = tmp_path / "measured.jsonl"
    damage = ["[3]", '{"off": ["x"], "readings": "x"}', '{"off": "x", "readings": {"a": {"b": 1}}}']
    damage.append('{"off": "torn')  # as a kill may leave it
    journal.write_bytes(b"\n".join([journal.read_bytes(), b"\xff", *map(str.encode, damage)]))
    began: list[float] = []
    found = knock(place, tmp_path, **asked, progress=lambda stage, done, total, unit="": began.append(done))
    assert min(began) >= 2
    assert found.equals(knock(place, tmp_path / "again", **asked))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"category": "cooking"}, "no category 'cooking'; it has general, code, math"),
        ({"layers": [0, 2]}, "no layer 2; it has layers 0 to 1"),
        ({"layers": []}, "no neuron of category 'code'"),
        ({"task": None}, "expected a task, or by `loss` a corpus .* found neither"),
        ({"loss": "corpus"}, "found both"),
        ({"lists": {"code": [[0, 1]]}}, "list of neurons 'code': expected another name than a category's"),
        ({"lists": {"loud": [[0, D_FFN]]}}, "found neuron 48 of layer 0, which it does not have"),
    ],
)
def test_wrong_input(place: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        knock(place, tmp_path, **changes)


def test_a_folder_of_another_kind_of_model(place: Path, tmp_path: Path) -> None:
    other = AutoModelForCausalLM.from_pretrained(place / "model").config
    other.intermediate_size = 64
    AutoModelForCausalLM.from_config(other).save_pretrained(tmp_path / "wide")
    AutoTokenizer.from_pretrained(place / "model").save_pretrained(tmp_path / "wide")
    with pytest.raises(
        InputError, match="expected a classification of wide, with 64 neurons in layer 0, found 48 there"
    ):
        knockout(
            str(tmp_path / "wide"), str(place / "neurons"), "code", None, tmp_path, task=str(place / "general.yaml")
        )
