"""Fisher merging and RegMean: by hand, against whole-tensor formulas, and with statistics collected on the way."""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from nmerge_core.calibration.collect import collect
from nmerge_core.errors import Cancelled, InputError
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.compute.regression import Recent, always_regular, system
from nmerge_core.merging.methods.regmean import merge as regmean
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.plan.estimate import estimate
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.recipe.values import Values
from tests.merging import checkpoints
from tests.tiny import TEXTS, tiny_model, write_corpus

Weights = dict[str, torch.Tensor]
KINDS = {"fisher": "fisher", "regmean": "gram"}


def recipe_of(method: str, models: list[str], weights: list[float] | None = None, **parameters: object) -> Recipe:
    entries = [
        {"model": model, "parameters": {"statistics": checkpoints.statistics(model, KINDS[method]), "weight": weight}}
        for model, weight in zip(models, weights or [1.0] * len(models), strict=True)
    ]
    return load_recipe({"merge_method": method, "models": entries, "parameters": parameters})


def merged(recipe: Recipe, out: Path) -> Weights:
    merge(recipe, out)
    return load_file(out / "model.safetensors")


def statistics_of(model: str, kind: str) -> Weights:
    return load_file(Path(checkpoints.statistics(model, kind)) / "model.safetensors")


def test_fisher_by_hand(tmp_path: Path) -> None:
    """θ1 = (1, 2), θ2 = (3, 4), F1 = (1, 0), F2 = (3, 1e-9), w = (1, 2).

    Entry 0: (1·1·1 + 2·3·3) / (1·1 + 2·3) = 19/7. Entry 1: both F are the floor, (1·2 + 2·4) / (1 + 2) = 10/3.
    """
    name, models = "model.norm.weight", []
    for label, theta, fisher in (("one", [1.0, 2.0], [1.0, 0.0]), ("two", [3.0, 4.0], [3.0, 1e-9])):
        weights = checkpoints.random_weights(0)
        weights[name][:2] = torch.tensor(theta)
        models.append(checkpoints.write(tmp_path / label, weights))
        file = Path(checkpoints.statistics(models[-1], "fisher")) / "model.safetensors"
        values = load_file(file)
        values[name][:2] = torch.tensor(fisher)
        checkpoints.save_file(values, file)
    found = merged(recipe_of("fisher", models, [1.0, 2.0]), tmp_path / "out")[name]
    torch.testing.assert_close(found[:2], torch.tensor([19 / 7, 10 / 3]))


def test_fisher_equals_its_formula(family, tmp_path: Path) -> None:
    out = merged(recipe_of("fisher", family.models, [1.0, 0.5, 2.0], floor=0.01), tmp_path / "out")
    fishers = [statistics_of(model, "fisher") for model in family.models]
    assert out.keys() == family.weights.keys()
    for name, value in out.items():
        above = below = torch.zeros(())
        for tune, fisher, weight in zip(family.tunes.values(), fishers, [1.0, 0.5, 2.0], strict=True):
            importance = weight * fisher[name].clamp(min=0.01)
            above, below = above + importance * tune[name], below + importance
        torch.testing.assert_close(value, above / below, atol=1e-6, rtol=1e-5)


def block_of(*models: torch.Tensor) -> Block:
    deltas = torch.stack(models)  # (T, rows, columns)
    return Block("w", torch.zeros_like(deltas[0]), deltas, 0, deltas.shape[1], True, 0, "mlp", 0.0, None)


def merge_by_hand(models: list[torch.Tensor], grams: list[torch.Tensor], scale: float) -> torch.Tensor:
    weights = (1.0,) * len(models)
    made = system(torch.stack(grams).double(), weights, scale)
    return regmean(
        block_of(*models), Values("regmean", {}, {"weight": weights}), Prepared((lambda *key: made, {"w": "w"}))
    )


def test_regmean_by_hand() -> None:
    """W1 = I, W2 = [[3, 0], [0, 0]], G1 = [[2, 1], [1, 2]], G2 = [[2, −1], [−1, 2]].

    scale 1: W1 G1 + W2 G2 = [[2, 1], [1, 2]] + [[6, −3], [0, 0]] = [[8, −2], [1, 2]] and G1 + G2 = 4 I, so
    W = [[2, −1/2], [1/4, 1/2]]. scale 1/2: the off-diagonal entries are ±1/2, so
    W = ([[2, 1/2], [1/2, 2]] + [[6, −3/2], [0, 0]]) / 4 = [[2, −1/4], [1/8, 1/2]].
    """
    models = [torch.eye(2), torch.tensor([[3.0, 0.0], [0.0, 0.0]])]
    grams = [torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([[2.0, -1.0], [-1.0, 2.0]])]
    torch.testing.assert_close(merge_by_hand(models, grams, 1.0), torch.tensor([[2.0, -0.5], [0.25, 0.5]]))
    torch.testing.assert_close(merge_by_hand(models, grams, 0.5), torch.tensor([[2.0, -0.25], [0.125, 0.5]]))


def test_regmean_equals_its_formula(family, tmp_path: Path) -> None:
    weights = [1.0, 0.5, 2.0]
    out = merged(recipe_of("regmean", family.models, weights), tmp_path / "out")
    grams = [statistics_of(model, "gram") for model in family.models]
    tunes = list(family.tunes.values())
    for name, value in out.items():
        if "_proj.weight" not in name:
            expected = sum(w * tune[name] for w, tune in zip(weights, tunes, strict=True)) / 3.5
            torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)
            continue
        above = below = torch.zeros(())
        for tune, gram, weight in zip(tunes, grams, weights, strict=True):
            own = gram[checkpoints.gram_name(name)].double()
            scaled = weight * (0.9 * own + 0.1 * own.diagonal().diag())
            above, below = above + tune[name].double() @ scaled, below + scaled
        torch.testing.assert_close(value, (above @ below.inverse()).float(), atol=1e-5, rtol=1e-5)
    report = json.loads((tmp_path / "out/nmerge_report.json").read_text())
    assert report["facts"]["warnings"] == []
    assert [row["label"] for row in report["facts"]["statistics"]] == ["math", "code", "translation"]


def test_regmean_of_scale_1_cannot_be_improved(family, tmp_path: Path) -> None:
    """The gradient of Σ_t ‖(W − W_t) X_t‖² is 2 Σ_t (W − W_t) G_t = 0, and every step away costs."""
    out = merged(recipe_of("regmean", family.models, scale=1.0), tmp_path / "out")
    name = "model.layers.1.mlp.down_proj.weight"
    grams = [statistics_of(model, "gram")[name].double() for model in family.models]

    def objective(weight: torch.Tensor) -> torch.Tensor:
        parts = [weight - tune[name].double() for tune in family.tunes.values()]
        return sum((part @ gram * part).sum() for part, gram in zip(parts, grams, strict=True))

    best = out[name].double().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(best), best)
    average = torch.stack([tune[name] for tune in family.tunes.values()]).mean(0).double().requires_grad_()
    (elsewhere,) = torch.autograd.grad(objective(average), average)
    assert gradient.norm() < 1e-5 * elsewhere.norm()
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        step = 1e-2 * torch.randn(best.shape, generator=generator, dtype=torch.float64)
        assert objective(best + step) > objective(best)
    assert objective(best) < objective(average)


@pytest.mark.parametrize("method", KINDS)
def test_identical_fine_tunes_give_that_fine_tune(family, tmp_path: Path, method: str) -> None:
    copies = [checkpoints.write(tmp_path / name, family.tunes["math"]) for name in ("a", "b", "c")]
    out = merged(recipe_of(method, copies, [1.0, 0.5, 2.0]), tmp_path / "out")
    for name, value in out.items():
        torch.testing.assert_close(value, family.tunes["math"][name], atol=1e-6, rtol=1e-6, msg=name)


def test_regmean_without_enough_texts_stays_near_the_average(tmp_path: Path, family, monkeypatch) -> None:
    monkeypatch.setattr(checkpoints, "TOKENS", 2)  # 3 models of 2 tokens: rank 6 of 8 or 12 inputs
    models = [checkpoints.write(tmp_path / name, tune) for name, tune in family.tunes.items()]
    out = merged(recipe_of("regmean", models, scale=1.0), tmp_path / "out")
    name = "model.layers.0.mlp.down_proj.weight"
    grams = [statistics_of(model, "gram")[name].double() for model in models]
    tunes = [tune[name].double() for tune in family.tunes.values()]
    average = sum(tunes) / 3
    total = torch.stack(grams).sum(0)
    root = total.diagonal().sqrt()
    scaled = total / root / root[:, None]
    right = sum((tune - average) @ gram for tune, gram in zip(tunes, grams, strict=True))
    expected = average + right / root @ torch.linalg.pinv(scaled, rtol=1e-6, hermitian=True) / root
    torch.testing.assert_close(out[name], expected.float(), atol=1e-4, rtol=1e-4)
    warnings = json.loads((tmp_path / "out/nmerge_report.json").read_text())["facts"]["warnings"]
    assert len(warnings) == checkpoints.LAYERS * 4  # q with k and v, o, gate with up, down
    assert warnings[0] == f"{name}: its texts do not tell in 6 directions of its input; there it is the average"


def test_the_estimate_counts_what_regmean_needs(family, tmp_path: Path) -> None:
    """Three models, 12 inputs of down: 3 matrices, their sum and its factor in float64, one in float32."""
    plain = estimate(recipe_of("fisher", family.models), tmp_path / "out")
    found = estimate(recipe_of("regmean", family.models), tmp_path / "out")
    assert found.peak_memory - plain.peak_memory == 12 * 12 * (5 * 8 + 4)
    assert found.seconds > plain.seconds


def test_an_input_that_is_always_zero_leaves_the_average() -> None:
    """Input 1 is never active: W[:, 1] is the mean (0 + 4) / 2; W[:, 0] = (1·2 + 3·6) / (2 + 6) = 2.5."""
    models = [torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 4.0]])]
    grams = [torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[6.0, 0.0], [0.0, 0.0]])]
    torch.testing.assert_close(merge_by_hand(models, grams, 0.9), torch.tensor([[2.5, 2.0]]))
    assert system(torch.stack(grams).double(), (1.0, 1.0), 0.9).unseen == 1


@pytest.mark.parametrize("tokens", [1, 40])
def test_what_is_said_to_be_regular_is(tokens: int) -> None:
    """Of 40 inputs that 1 token tells nothing of but one direction, with off-diagonals × 0.999 and × 1."""
    x = torch.randn(tokens, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 3] = 0
    found = system((x.T @ x)[None].clone(), (0.5,), 0.999)
    assert always_regular(0.999, 40) and found.regular and found.unseen == 1
    assert not always_regular(1.0, 40)


def test_regmean_says_which_inputs_are_silent(tmp_path: Path, family, monkeypatch) -> None:
    monkeypatch.setattr(checkpoints, "SILENT", 2)
    models = [checkpoints.write(tmp_path / name, tune) for name, tune in family.tunes.items()]
    merged(recipe_of("regmean", models), tmp_path / "out")
    warnings = json.loads((tmp_path / "out/nmerge_report.json").read_text())["facts"]["warnings"]
    assert len(warnings) == checkpoints.LAYERS * 4
    assert all("its texts do not tell in 2 directions of its input" in warning for warning in warnings)


def test_weights_by_layer_reach_the_statistics(family, tmp_path: Path) -> None:
    """Weight 0 for two models in layer 1 leaves the third there, whatever its statistics."""
    only = [{"filter": "layers.1.", "value": 0.0}, {"value": 1.0}]
    for method in KINDS:
        entries = [
            {"model": model, "parameters": {"statistics": checkpoints.statistics(model, KINDS[method]), **own}}
            for model, own in zip(family.models, ({}, {"weight": only}, {"weight": only}), strict=True)
        ]
        out = merged(load_recipe({"merge_method": method, "models": entries}), tmp_path / method)
        for name, value in out.items():
            alone = torch.allclose(value, family.tunes["math"][name], atol=1e-6)
            assert alone == ("layers.1." in name), (method, name)


def test_a_result_is_made_once_for_all_threads() -> None:
    made: list[tuple] = []
    start = Barrier(8)

    def note(*key: int) -> Any:
        made.append(key)
        return key

    recent = Recent(note)

    def ask(number: int) -> Any:
        start.wait()
        return recent(number % 2)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == [(number % 2,) for number in range(8)]
    assert sorted(made) == [(0,), (1,)]
    assert recent(2) == (2,) and recent(3) == (3,) and recent(0) == (0,)
    assert len(made) == 5  # 0 was forgotten when 2 and 3 came

    def fail(*key: object) -> None:
        raise InputError("truncated")

    with pytest.raises(InputError, match="truncated"):
        Recent(fail)(0)


@pytest.mark.parametrize("method", KINDS)
def test_statistics_of_another_model_are_refused(family, tmp_path: Path, method: str) -> None:
    entries = [{"model": model} for model in family.models[:2]]
    with pytest.raises(InputError, match=rf"statistics' \({method}\): expected a folder of .*, or a 'corpus' for all"):
        merge(load_recipe({"merge_method": method, "models": entries}), tmp_path / "out")
    wrong = checkpoints.statistics(family.models[2], KINDS[method])
    entries = [{"model": model, "parameters": {"statistics": wrong}} for model in family.models[:2]]
    with pytest.raises(InputError, match=r"expected statistics of .*math \(.*\), found those of .*translation"):
        merge(load_recipe({"merge_method": method, "models": entries}), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def stop_merging(stage: str, done: float, total: float, unit: str = "") -> None:
    if stage == "Merging" and done > total / 2:
        raise Cancelled


def test_other_statistics_do_not_take_over_what_is_left(family, tmp_path: Path) -> None:
    models = [checkpoints.write(tmp_path / name, tune) for name, tune in family.tunes.items()]
    recipe = recipe_of("fisher", models)
    with pytest.raises(Cancelled):
        merge(recipe, tmp_path / "out", progress=stop_merging)
    file = Path(checkpoints.statistics(models[0], "fisher")) / "model.safetensors"
    checkpoints.save_file({name: 5 * value for name, value in load_file(file).items()}, file)
    merge(recipe, tmp_path / "out")
    merge(recipe, tmp_path / "clean")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "clean/model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two models and a corpus, with tokenizers: what collecting on the way needs."""
    root = tmp_path_factory.mktemp("tuned")
    for seed, name in enumerate(("base", "math", "code")):
        tiny_model(root / name, seed=seed)
    write_corpus(root / "corpus", TEXTS)
    return root


@pytest.mark.parametrize("method", KINDS)
def test_statistics_are_collected_on_the_way_once(tuned: Path, tmp_path: Path, method: str, monkeypatch) -> None:
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path / "cache"))
    file = tuned / f"{method}.yaml"
    file.write_text(f"merge_method: {method}\nmodels: [{{model: {tuned}/math}}, {{model: {tuned}/code}}]\n"
                    "parameters: {corpus: corpus, samples: 3}\n")  # fmt: skip
    stages: list[str] = []

    def note(stage: str, done: float, total: float, unit: str = "") -> None:
        stages.append(stage)
        stop_merging(stage, done, total, unit)

    recipe = load_recipe(file)
    assert estimate(recipe, tmp_path / "out").solving
    with pytest.raises(Cancelled):
        merge(recipe, tmp_path / "out", progress=note)
    assert any(stage.endswith("of math") for stage in stages) and any(stage.endswith("of code") for stage in stages)
    assert len(list((tmp_path / "cache/statistics").iterdir())) == 2
    stages.clear()
    merge(recipe, tmp_path / "out", progress=lambda stage, done, total, unit="": stages.append(stage))
    assert not any(stage.endswith(" of math") for stage in stages)
    folders = sorted((tmp_path / "cache/statistics").iterdir())
    metas = [json.loads((folder / "meta.json").read_text()) for folder in folders]
    assert sorted((meta["label"], meta["categories"], meta["samples"]) for meta in metas) == [
        ("code", ["code"], 3),
        ("math", ["math"], 3),
    ]


@pytest.mark.parametrize("method", KINDS)
def test_a_tied_model_merges_with_one_that_has_a_head(tuned: Path, tmp_path: Path, method: str, monkeypatch) -> None:
    """Of the head, which is measured in one of them, it is the mean."""
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tuned / "code", tmp_path / "code")
    file, config = tmp_path / "code/model.safetensors", tmp_path / "code/config.json"
    weights = load_file(file)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + 1
    save_file(weights, file, {"format": "pt"})
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": False}))
    models = [{"model": str(each)} for each in (tuned / "math", tmp_path / "code")]
    parameters = {"corpus": str(tuned / "corpus"), "samples": 3}
    found = merged(load_recipe({"merge_method": method, "models": models, "parameters": parameters}), tmp_path / "out")
    tied = load_file(tuned / "math/model.safetensors")["model.embed_tokens.weight"]
    torch.testing.assert_close(found["lm_head.weight"], (tied + weights["lm_head.weight"]) / 2)


@pytest.mark.parametrize("method", KINDS)
def test_its_own_recipe_makes_a_merge_again_without_the_cache(
    tuned: Path, tmp_path: Path, method: str, monkeypatch
) -> None:
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path / "cache"))
    content = {
        "merge_method": method,
        "models": [{"model": "math"}, {"model": "code"}, {"model": "base", "parameters": {"category": "math"}}],
        "parameters": {"corpus": "corpus", "samples": 3},
    }
    monkeypatch.chdir(tuned)
    merge(load_recipe(content), tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    resolved = load_recipe(tmp_path / "out/nmerge_recipe.yaml")
    values = resolved.values()
    assert values.shared["corpus"] == str(tuned / "corpus") and values.shared["samples"] == 3
    assert values.each["category"] == ("math", "code", "math") and values.each["statistics"] == (None,) * 3
    shutil.rmtree(tmp_path / "cache")
    for again in ("collected", "reused"):
        merge(resolved, tmp_path / again)
        assert same_weights(tmp_path / "out", tmp_path / again)
        written = [(tmp_path / folder / "nmerge_recipe.yaml").read_text() for folder in ("out", again)]
        assert written[0] == written[1]


@pytest.mark.parametrize("method", KINDS)
def test_folders_that_were_named_stay_named(tuned: Path, tmp_path: Path, method: str, monkeypatch) -> None:
    """One model's statistics have a folder, beside the recipe's file; those of the other are collected."""
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path / "cache"))
    collect(str(tuned / "math"), str(tuned / "corpus"), KINDS[method], tmp_path / "own", categories=["code"], samples=2)
    named = {"model": str(tuned / "math"), "parameters": {"statistics": "own"}}
    content = {"merge_method": method, "models": [named, {"model": str(tuned / "code")}]}
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(content | {"parameters": {"corpus": str(tuned / "corpus"), "samples": 3}}))
    merge(load_recipe(file), tmp_path / "out")
    resolved = load_recipe(tmp_path / "out/nmerge_recipe.yaml")
    values = resolved.values()
    assert values.each["statistics"] == (str(tmp_path / "own"), None) and values.each["category"] == (None, "code")
    shutil.rmtree(tmp_path / "cache")
    merge(resolved, tmp_path / "again")
    assert same_weights(tmp_path / "out", tmp_path / "again")
    content["models"] = [named]
    file.write_text(yaml.safe_dump(content | {"parameters": {"corpus": str(tuned / "corpus")}}))
    merge(load_recipe(file), tmp_path / "alone")
    resolved = load_recipe(tmp_path / "alone/nmerge_recipe.yaml")
    assert resolved.values().shared["corpus"] is None  # no texts were read
    assert not estimate(resolved, tmp_path / "again").solving
    shutil.rmtree(tmp_path / "own")
    with pytest.raises(InputError, match=f"{re.escape(str(tmp_path / 'own'))}.*found no"):
        estimate(resolved, tmp_path / "gone")
    with pytest.raises(InputError, match="found no meta.json in it"):
        merge(resolved, tmp_path / "gone")


def same_weights(one: Path, other: Path) -> bool:
    return (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_a_base_that_is_not_needed_gives_the_tokenizer_and_the_configuration(tuned: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tuned / "base", base)
    (base / "chat_template.jinja").write_text("{{ messages }}")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-4}))
    recipe = {"merge_method": "linear", "models": [{"model": str(tuned / name)} for name in ("math", "code")]}
    plain = merged(load_recipe(recipe), tmp_path / "plain")
    based = merged(load_recipe({**recipe, "base_model": str(base)}), tmp_path / "based")
    assert all(torch.equal(value, plain[name]) for name, value in based.items())
    assert (tmp_path / "based/chat_template.jinja").exists() and not (tmp_path / "plain/chat_template.jinja").exists()
    assert json.loads((tmp_path / "based/config.json").read_text())["rms_norm_eps"] == 1e-4
    sizes = [estimate(load_recipe({**recipe, **more}), tmp_path / "x") for more in ({}, {"base_model": str(base)})]
    assert sizes[0].bytes_read == sizes[1].bytes_read
