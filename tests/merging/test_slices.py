"""Outputs whose layers are ranges of several models': what each is made of, and that all else holds of them too."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.checkpoints.stacked import Part, stacked
from nmerge_core.errors import Cancelled, InputError
from nmerge_core.loading import load_model
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.plan.estimate import estimate
from nmerge_core.merging.recipe.changes import changes
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.resident import LiveMerge, hold_family
from nmerge_core.resident.departure import moved_neurons
from tests.merging import checkpoints
from tests.merging.merged import Weights
from tests.merging.test_pipeline import StopAt
from tests.tiny import TEXTS, tiny_model, write_corpus

MIDDLE = "model.layers.{}.mlp.down_proj.weight"
ENDS = ("model.embed_tokens.weight", "model.norm.weight")


def source(model: str, first: int, last: int, **parameters: Any) -> dict[str, Any]:
    return {"model": model, "layer_range": [first, last], **({"parameters": parameters} if parameters else {})}


def merged(out: Path, slices: list[list[dict[str, Any]]], method: str = "passthrough", **more: Any) -> Weights:
    recipe = {"merge_method": method, "slices": [{"sources": sources} for sources in slices], **more}
    merge(load_recipe(recipe), out)
    return load_file(out / "model.safetensors")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models that run, with tokenizers, and a corpus."""
    root = tmp_path_factory.mktemp("tuned")
    for seed, name in enumerate(("math", "code")):
        tiny_model(root / name, seed=seed)
    write_corpus(root / "corpus", TEXTS)
    return root


def test_layers_of_two_models_one_after_the_other(family: SimpleNamespace, tmp_path: Path) -> None:
    math, code, _ = family.models
    found = merged(tmp_path / "out", [[source(math, 0, 2)], [source(code, 1, 2)], [source(code, 0, 1, scale=0.5)]])
    made_of = [("math", 0, 1.0), ("math", 1, 1.0), ("code", 1, 1.0), ("code", 0, 0.5)]
    for layer, (tune, own, scale) in enumerate(made_of):
        for rest in checkpoints.SHAPES:
            expected = family.tunes[tune][f"model.layers.{own}.{rest}"] * scale
            assert torch.equal(found[f"model.layers.{layer}.{rest}"], expected)
    embeddings, norm = ENDS  # of the first slice, and of the last, with its scale
    assert torch.equal(found[embeddings], family.tunes["math"][embeddings])
    assert torch.equal(found[norm], family.tunes["code"][norm] * 0.5)
    assert len(found) == 4 * len(checkpoints.SHAPES) + 2
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["num_hidden_layers"] == 4
    report = json.loads((tmp_path / "out/nmerge_report.json").read_text())
    assert [each["model"] for each in report["models"]] == [math, code] and report["tensors"] == len(found)
    assert report["facts"]["slices"][1]["sources"] == [{"model": code, "layer_range": [1, 2]}]
    assert all(model in (tmp_path / "out/README.md").read_text() for model in (math, code))
    merge(load_recipe(tmp_path / "out/nmerge_recipe.yaml"), tmp_path / "again")
    files = [tmp_path / name / "model.safetensors" for name in ("out", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_is_listed_by_layer_follows(tmp_path: Path) -> None:
    weights = checkpoints.random_weights(0)
    kinds = ["sliding_attention", "full_attention"]
    listed: dict[str, Any] = {"layer_types": kinds, "mlp_only_layers": [1], "pad_layers": "x"}
    model = open_checkpoint(checkpoints.write(tmp_path / "m", weights, **listed))
    made = stacked([Part(model, 1, 2), Part(model, 0, 2)])
    assert made.config["layer_types"] == [kinds[1], *kinds] and made.config["mlp_only_layers"] == [0, 2]
    assert made.config["num_hidden_layers"] == 3 and made.architecture.depth == 3
    assert stacked([Part(model, 0, 2)]) is model


def test_parameters_are_a_slices_own_and_gradients_run_over_it(family: SimpleNamespace, tmp_path: Path) -> None:
    """Of a slice of two layers a gradient from 0 to 1 gives 0 and 1; of one layer its end."""
    math, code, _ = family.models
    slices = [
        {"sources": [source(family.base, 0, 2), source(math, 0, 2, weight=[0.0, 1.0])]},
        {"sources": [source(family.base, 1, 2), source(code, 1, 2)], "parameters": {"weight": [0.25, 0.5]}},
    ]
    recipe: dict[str, Any] = {"merge_method": "task_arithmetic", "base_model": family.base, "slices": slices}
    merge(load_recipe({**recipe, "parameters": {"weight": 7}}), tmp_path / "out")
    found = load_file(tmp_path / "out/model.safetensors")
    for layer, (tune, own, weight) in enumerate([("math", 0, 0.0), ("math", 1, 1.0), ("code", 1, 0.5)]):
        base = family.weights[MIDDLE.format(own)]
        expected = base + weight * (family.tunes[tune][MIDDLE.format(own)] - base)
        torch.testing.assert_close(found[MIDDLE.format(layer)], expected, atol=2e-6, rtol=2e-6)


def test_a_threshold_of_the_whole_model_is_of_the_output(family: SimpleNamespace, tmp_path: Path) -> None:
    math = family.models[0]
    slices = [[source(family.base, 1, 2), source(math, 1, 2)]] * 2
    parameters = {"density": 0.2, "trim": "model"}
    found = merged(tmp_path / "out", slices, "ties", base_model=family.base, parameters=parameters)
    names = {name: name.replace("layers.0.", "layers.1.") for name in found}
    tau = {name: family.tunes["math"][own] - family.weights[own] for name, own in names.items()}
    every = torch.cat([each.flatten() for each in tau.values()]).abs().sort(descending=True).values
    least = every[-int(-0.2 * len(every) // 1) - 1]
    for name, own in names.items():
        expected = family.weights[own] + torch.where(tau[name].abs() >= least, tau[name], 0.0)
        torch.testing.assert_close(found[name], expected, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("method", ["slerp", "sce", "karcher", "breadcrumbs", "della", "pcb", "iso_c", "neuromerging"])
def test_a_slice_of_all_layers_is_the_whole_merge(family: SimpleNamespace, tmp_path: Path, method: str) -> None:
    """Every kind of method, and the same after a stop: one slice of whole models is what models are."""
    entries = checkpoints.entries(method, family.models)
    whole = {"merge_method": method, "base_model": family.base, "models": entries}
    merge(load_recipe(whole), tmp_path / "whole")
    models = [str(entry["model"]) for entry in entries]
    sources = [source(model, 0, 2) for model in ([family.base, *models] if method != "karcher" else models)]
    slices = {"merge_method": method, "base_model": family.base, "slices": [{"sources": sources}]}
    with pytest.raises(Cancelled):
        merge(load_recipe(slices), tmp_path / "out", progress=StopAt(20))
    merge(load_recipe(slices), tmp_path / "out")
    files = [tmp_path / name / "model.safetensors" for name in ("out", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"models": [{"model": "m"}]}, "expected 'models' or 'slices', found both"),
        ({"slices": []}, "expected a list of {sources: …}"),
        ({"slices": [{"sources": [{"model": "MATH"}]}]}, r"key 'slices\[0\].sources\[0\]': expected .*layer_range"),
        ({"slices": [{"sources": [source("MATH", 1, 1)]}]}, "with 0 ≤ first < end"),
        ({"slices": [{"sources": [source("MATH", 0, 3)]}]}, r"expected layers of .*math, which has 2, found \[0, 3\]"),
        ({"slices": [{"sources": [source("MATH", 0, 2), source("CODE", 0, 1)]}]}, "expected as many layers of every"),
        (
            {"slices": [{"sources": [source("MATH", 0, 1)]}, {"sources": [source("MATH", 0, 1)] * 2}]},
            "expected as many models as in the first slice, 1, found 2",
        ),
        ({"slices": [{"sources": [source("MATH", 0, 1)]}], "merge_method": "ties"}, "expected the base .* among them"),
        ({"slices": [{"sources": [source("MATH", 0, 1)] * 2}]}, "passthrough.*expected exactly one model; found 2"),
        ({"merge_method": "sublin"}, "sublin goes by calibration, of whole models"),
        (
            {"merge_method": "ties", "slices": [{"sources": [source("BASE", 0, 1), source("MATH", 0, 1)]}]}
            | {"slices": [{"sources": [source("BASE", 0, 1)], "parameters": {"trim": "model"}}]},
            "expected at least one model besides the base",
        ),
        (
            {
                "merge_method": "ties",
                "slices": [
                    {"sources": [source("BASE", 0, 1), source("MATH", 0, 1)], "parameters": {"trim": "model"}},
                ],
            },
            "'trim' is said once for all slices",
        ),
        ({"slices": [{"sources": [source("MATH", 0, 1)], "sourecs": []}]}, "did you mean 'sources'"),
    ],
)
def test_what_is_wrong_with_slices_is_said(
    family: SimpleNamespace, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    recipe = {"merge_method": "passthrough", "slices": [{"sources": [source("MATH", 0, 2)]}], "base_model": "BASE"}
    text = json.dumps(recipe | change)
    for word, model in zip(("BASE", "MATH", "CODE"), (family.base, *family.models), strict=False):
        text = text.replace(word, model)
    with pytest.raises(InputError, match=told):
        estimate(load_recipe(json.loads(text)), tmp_path / "out")


@pytest.mark.parametrize("layers", [(0, 1, 0), (1,)])
def test_a_merge_in_memory_follows_its_slices(tuned: Path, tmp_path: Path, layers: tuple[int, ...]) -> None:
    """Deeper and flatter than its models: the weights and the outputs of what is written, and what changes alone."""

    def sliced(scale: float) -> Recipe:
        slices = [[source(str(tuned / "math"), own, own + 1, scale=0.5)] for own in layers]
        slices[-1] = [source(str(tuned / "code"), layers[-1], layers[-1] + 1, scale=scale)]
        recipe = {"merge_method": "passthrough", "slices": [{"sources": sources} for sources in slices]}
        return load_recipe(recipe)

    live = LiveMerge(hold_family(sliced(1.0)), sliced(1.0))
    live.follow(sliced(1.0))
    followed = live.follow(sliced(0.75))
    assert 0 < followed.tensors < followed.of or len(layers) == 1
    merge(sliced(0.75), tmp_path / "out")
    written = load_file(tmp_path / "out/model.safetensors")
    assert written.keys() == {*live.family.names}
    assert all(torch.equal(live.weights(name), tensor) for name, tensor in written.items())
    loaded, tokens = load_model(str(tmp_path / "out")), torch.tensor([[1, 2, 3, 4]])
    with torch.inference_mode():
        ours, theirs = (each.model(input_ids=tokens).logits for each in (live.language_model, loaded))
    assert torch.equal(ours, theirs)
    with pytest.raises(InputError, match=f"the merge has {len(layers)} layers and math 2: their neurons are not the"):
        moved_neurons(live.language_model, load_model(str(tuned / "math")), [1, 2], 1)
    with pytest.raises(InputError, match="of the models .* that it was opened with"):
        live.follow(load_recipe({"merge_method": "passthrough", "models": [{"model": str(tuned / "math")}]}))


def test_a_weight_that_is_not_finite_is_named_where_it_stands(family: SimpleNamespace, tmp_path: Path) -> None:
    broken = dict(family.tunes["math"])
    broken[MIDDLE.format(0)] = torch.full_like(broken[MIDDLE.format(0)], float("nan"))
    model = checkpoints.write(tmp_path / "broken", broken)
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.down_proj\.weight \(model\.layers\.0\.mlp.* of .*broken\)"):
        merged(tmp_path / "out", [[source(family.models[0], 0, 1)], [source(model, 0, 1)]])


def test_what_two_recipes_of_slices_say_differently(family: SimpleNamespace) -> None:
    math, code, _ = family.models
    recipe: dict[str, Any] = {"merge_method": "passthrough", "slices": [{"sources": [source(math, 0, 2)]}]}
    longer = {**recipe, "slices": [*recipe["slices"], {"sources": [source(code, 1, 2, scale=0.5)]}]}
    before, after = load_recipe(recipe), load_recipe(longer)
    found = {change.what: (change.before, change.after) for change in changes(before, after, {})}
    assert found == {
        "Models": ("math", "math, code"),
        "Slices": ("math 0–2", "math 0–2; code 1–2 (scale 0.5)"),
    }
    assert load_recipe(after.yaml).content == after.content and after.title({}) == "Passthrough of math, code"


STATISTICS_METHODS = ["fisher", "regmean"]


def measured(method: str, model: str, first: int, last: int, **more: Any) -> dict[str, Any]:
    return source(model, first, last, statistics=checkpoints.statistics(model, checkpoints.STATISTICS[method]), **more)


@pytest.mark.parametrize("method", STATISTICS_METHODS)
def test_a_layer_goes_by_the_statistics_of_the_layers_it_is_made_of(
    family: SimpleNamespace, tmp_path: Path, method: str
) -> None:
    """Each layer, the embeddings (the first slice's) and the norm (the last's) are those of a merge of whole models."""
    math, code, translation = family.models
    made_of = [((math, code), 1), ((math, code), 0), ((translation, math), 1)]
    slices = [[measured(method, model, own, own + 1) for model in pair] for pair, own in made_of]
    found = merged(tmp_path / "out", slices, method)
    whole: dict[Any, Weights] = {}
    for pair in {pair for pair, _ in made_of}:
        folder = tmp_path / f"whole-{len(whole)}"
        merge(load_recipe({"merge_method": method, "models": checkpoints.entries(method, list(pair))}), folder)
        whole[pair] = load_file(folder / "model.safetensors")
    for layer, (pair, own) in enumerate(made_of):
        for rest in checkpoints.SHAPES:
            expected = whole[pair][f"model.layers.{own}.{rest}"]
            assert torch.equal(found[f"model.layers.{layer}.{rest}"], expected)
    for name, (pair, _) in zip(ENDS, (made_of[0], made_of[-1]), strict=True):
        assert torch.equal(found[name], whole[pair][name])
    report = json.loads((tmp_path / "out/nmerge_report.json").read_text())
    assert sorted(each["label"] for each in report["facts"]["statistics"]) == ["code", "math", "translation"]
    merge(load_recipe(tmp_path / "out/nmerge_recipe.yaml"), tmp_path / "again")
    files = [tmp_path / name / "model.safetensors" for name in ("out", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_regmean_of_different_layers_of_its_models(family: SimpleNamespace, tmp_path: Path) -> None:
    """W = (Σ w_t W_t G̃_t)(Σ w_t G̃_t)⁻¹ of layer 0 of math, weight 1, and layer 1 of code, weight 2."""
    math, code, _ = family.models
    sources = [measured("regmean", math, 0, 1, weight=1.0), measured("regmean", code, 1, 2, weight=2.0)]
    found = merged(tmp_path / "out", [sources], "regmean")
    for rest in ("self_attn.v_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"):
        above = below = torch.zeros(())
        for tune, layer, weight in (("math", 0, 1.0), ("code", 1, 2.0)):
            name = f"model.layers.{layer}.{rest}"
            folder = Path(checkpoints.statistics(family.models[["math", "code"].index(tune)], "gram"))
            gram = load_file(folder / "model.safetensors")[checkpoints.gram_name(name)].double()
            scaled = weight * (0.9 * gram + 0.1 * gram.diagonal().diag())  # (inputs, inputs)
            above, below = above + family.tunes[tune][name].double() @ scaled, below + scaled
        expected = (above @ below.inverse()).float()
        torch.testing.assert_close(found[f"model.layers.0.{rest}"], expected, atol=1e-5, rtol=1e-5)


def test_statistics_of_slices_are_collected_once_for_each_model(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model is measured on the texts of the category of its name, however many slices have layers of it."""
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path / "cache"))
    models = [str(tuned / name) for name in ("math", "code")]
    slices = [[source(model, first, first + 1) for model in models] for first in (0, 1, 0)]
    parameters = {"corpus": str(tuned / "corpus"), "samples": 3}
    merged(tmp_path / "out", slices, "regmean", parameters=parameters)
    whole = {"merge_method": "regmean", "models": [{"model": model} for model in models], "parameters": parameters}
    merge(load_recipe(whole), tmp_path / "whole")
    assert len(list((tmp_path / "cache/statistics").iterdir())) == 2
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "whole"))
    for layer, own in enumerate((0, 1, 0)):
        assert torch.equal(ours[MIDDLE.format(layer)], theirs[MIDDLE.format(own)])
    shutil.rmtree(tmp_path / "cache")
    resolved = load_recipe(tmp_path / "out/nmerge_recipe.yaml")
    assert [each.parameters["category"] for each in resolved.merged] == ["math", "code"] * 3
    merge(resolved, tmp_path / "again")
    files = [tmp_path / name / "model.safetensors" for name in ("out", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()
