"""Models whose layers hold different numbers of neurons, through every command that reads neurons."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nmerge_core.activations.collect import token_activations
from nmerge_core.activations.store import open_classification
from nmerge_core.cli import main
from nmerge_core.errors import InputError
from nmerge_core.loading import load_model
from nmerge_core.nonlinearity import measure
from tests.families import EXPERTS, MOE_F, F, family_of
from tests.tiny import TEXTS, tiny_model, write_corpus

MIXTURE = EXPERTS * MOE_F + MOE_F  # the routed experts, then the shared one


@pytest.fixture(scope="module")
def models(made_family: Callable[..., SimpleNamespace]) -> SimpleNamespace:
    """A dense layer of 24 neurons, then a mixture of 4 · 12 and 12."""
    return made_family(family_of("DeepSeek-V3"))


@pytest.fixture(scope="module")
def place(models: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, and the base and a fine-tune classified with it."""
    folder = tmp_path_factory.mktemp("unequal")
    corpus = write_corpus(folder / "corpus", TEXTS)
    for name in ("base", "math"):
        asked = ["--corpus", corpus, "--out", str(folder / name), "--top-k", "3", "--device", "cpu"]
        assert main(["classify", getattr(models, name), *asked]) == 0
    return folder


@torch.no_grad()
def naive(model: nn.Module, tokens: list[int]) -> list[Tensor]:
    """The largest |φ| of each neuron over the tokens, of each layer."""
    seen: dict[str, tuple] = {}
    for name, module in model.named_modules():
        if name.endswith(("down_proj", ".experts")):
            module.register_forward_pre_hook(lambda module, inputs, name=name: seen.update({name: inputs}))
    model(torch.tensor([tokens]))
    [dense] = seen["model.layers.0.mlp.down_proj"]
    [shared] = seen["model.layers.1.mlp.shared_experts.down_proj"]
    states, chosen, _ = seen["model.layers.1.mlp.experts"]
    experts = model.get_parameter("model.layers.1.mlp.experts.gate_up_proj")
    routed = torch.zeros(len(tokens), EXPERTS, MOE_F)
    for token, state in enumerate(states):
        for expert in chosen[token].tolist():
            gate, up = (experts[expert] @ state).chunk(2)
            routed[token, expert] = gate / (1 + torch.exp(-gate)) * up
    mixture = torch.cat([routed.flatten(1), shared.view(len(tokens), -1)], dim=1)
    return [dense[0].abs().amax(0), mixture.abs().amax(0)]


def test_inspect_prints_the_range(models: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", models.base]) == 0
    assert ["d_ffn", "24–60"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert main(["inspect", "--json", models.base]) == 0
    [facts] = json.loads(capsys.readouterr().out)["models"]
    assert (facts["least_d_ffn"], facts["d_ffn"]) == (24, 60)


def test_classify_scores_each_layer_s_neurons(models: SimpleNamespace, place: Path) -> None:
    found = open_classification(place / "base")
    assert found.widths == {0: F, 1: MIXTURE}
    table = found.neurons()
    assert table.groupby("layer").size().to_dict() == found.widths
    scores = load_file(place / "base/scores.safetensors")
    loaded = load_model(models.base, "cpu")
    for row in found.exemplars().itertuples():
        for layer, expected in enumerate(naive(loaded.model, loaded.tokenizer(row.text)["input_ids"])):
            torch.testing.assert_close(scores[f"layer.{layer}"][row.id], expected, rtol=1e-4, atol=1e-6)
    for layer, width in found.widths.items():
        ids, values = found.top(layer)
        assert ids.shape == values.shape == found.positions(layer).shape == (width, len(found.exemplars()))
        own = table[table["layer"] == layer]
        assert own["neuron"].tolist() == list(range(width))
        assert [each[0] for each in own["values"]] == values[:, 0].tolist()
        assert scores[f"layer.{layer}"].amax(0).tolist() == values[:, 0].tolist()


def test_an_activation_s_neuron_is_of_its_own_layer(models: SimpleNamespace) -> None:
    loaded = load_model(models.base, "cpu")
    assert len(token_activations(loaded, ["2+2"], 1, MIXTURE - 1)[0].values) == 3
    with pytest.raises(InputError, match="no neuron 24 in layer 0; it has 24 neurons"):
        token_activations(loaded, ["2+2"], 0, F)


def test_compare(place: Path) -> None:
    out = place / "counts.csv"
    assert main(["compare", str(place / "base"), str(place / "math"), "--out", str(out)]) == 0
    counts = pd.read_csv(out).set_index(["layer", "category"])
    assert counts.groupby("layer")["math"].sum().to_dict() == {0: F, 1: MIXTURE}
    base, math = (
        open_classification(place / name).neurons().set_index(["layer", "neuron"])["category"]
        for name in ("base", "math")
    )
    for (layer, category), row in counts.iterrows():
        ours, theirs = base[layer] == category, math[layer] == category
        assert (row["base"], row["math"], row["intersection"]) == (ours.sum(), theirs.sum(), (ours & theirs).sum())


def test_knockout(models: SimpleNamespace, place: Path) -> None:
    shipped = Path(__file__).parents[1] / "nmerge_core/demo/tasks/general.yaml"
    (place / "general.yaml").write_text(shipped.read_text())
    (place / "general.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS["math"]))
    table = open_classification(place / "base").neurons()
    asked = ["--neurons", str(place / "base"), "--category", "general", "--layers", "0,1", "--proportions", "0.5,1"]
    task = ["--task", str(place / "general.yaml"), "--repeats", "1", "--device", "cpu"]
    assert main(["knockout", models.base, *asked, *task, "--out", str(place / "curve.csv")]) == 0
    frame = pd.read_csv(place / "curve.csv")
    general = int((table["category"] == "general").sum())
    assert set(frame.loc[frame["proportion"] == 1, "neurons"]) == {general} and general > 0
    assert frame.groupby(["group", "proportion"])["value"].first().nunique() == 5  # the intact model is of both groups


def test_neuronmerge(models: SimpleNamespace, place: Path) -> None:
    """General neurons get the mean of the changes, the others none."""
    recipe = {
        "merge_method": "neuronmerge",
        "base_model": models.base,
        "models": [
            {"model": models.math, "parameters": {"category": "math"}},
            {"model": models.code, "parameters": {"category": "code"}},
        ],
        "parameters": {
            "neurons": str(place / "base"),
            "general": "task_arithmetic",
            "specific": "drop",
            "others": "task_arithmetic",
        },
    }
    (place / "recipe.yaml").write_text(json.dumps(recipe))
    assert main(["merge", str(place / "recipe.yaml"), str(place / "merged")]) == 0
    merged = load_file(place / "merged/model.safetensors")
    table = open_classification(place / "base").neurons()
    plain = {name: sum(tune[name] - base for tune in models.tunes) for name, base in models.weights.items()}
    for name, rows in {"0.mlp": (0, F), "1.mlp.shared_experts": (EXPERTS * MOE_F, MIXTURE)}.items():
        tensor = f"model.layers.{name}.up_proj.weight"
        own = table[(table["layer"] == int(name[0])) & table["neuron"].between(rows[0], rows[1] - 1)]
        kept = torch.tensor((own["category"] == "general").to_numpy())[:, None]
        change = merged[tensor] - models.weights[tensor]
        scale = (change[kept[:, 0]] / plain[tensor][kept[:, 0]]).mean()
        torch.testing.assert_close(change, torch.where(kept, scale * plain[tensor], 0.0), atol=1e-5, rtol=1e-3)


def test_a_classification_of_other_models_is_refused(place: Path, tmp_path: Path) -> None:
    other = tiny_model(tmp_path / "other")
    message = "expected a classification of .*other, with 48 neurons in layer 0, found 24 there; classify this model"
    with pytest.raises(InputError, match=message):
        measure(other, [other], str(place / "corpus"), neurons=str(place / "base"), samples=1, device="cpu")
