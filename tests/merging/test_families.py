"""Merging of families whose tensors lie otherwise on disk: every method, several shards, old files."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from nmerge_core.activations.hooks import knock_out
from nmerge_core.checkpoints import inspect_family, open_checkpoint
from nmerge_core.loading import load_model
from nmerge_core.merging.plan.candidate import load_candidate
from nmerge_core.merging.plan.opened import open_recipe
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.registry import methods
from nmerge_core.similarity.measure import cosine
from tests.families import Family, Weights, categories, family_of, rewrite, run

STORED_OTHERWISE = [family_of("GPT-2"), family_of("Qwen3-MoE, experts stacked")]


@pytest.fixture(scope="module")
def sharded(made_family, tmp_path_factory: pytest.TempPathFactory):
    """The models of a family with their fine-tunes in several shards."""
    made: dict[str, SimpleNamespace] = {}

    def get(family: Family) -> SimpleNamespace:
        if family.title not in made:
            root, models = tmp_path_factory.mktemp("sharded"), SimpleNamespace(**vars(made_family(family)))
            for name in ("math", "code"):
                model = models.auto.from_pretrained(getattr(models, name))
                model.save_pretrained(root / name, max_shard_size="10KB", **family.save)
                assert len(list((root / name).glob("*.safetensors"))) > 2
                setattr(models, name, str(root / name))
            made[family.title] = models
        return made[family.title]

    return get


@pytest.mark.parametrize("family", STORED_OTHERWISE, ids=lambda family: family.title)
@pytest.mark.parametrize("method", methods())
def test_every_method_gives_the_same_bytes_whatever_the_shards(
    family: Family, method: str, made_family, sharded, tmp_path: Path
) -> None:
    given: dict[str, object] = {}
    if method in ("sublin", "neuronmerge"):
        parts = {part: [0.5, 0.25] for part in ("attention", "mlp", "general")}
        given["coefficients"] = {str(layer): parts for layer in range(len(family.neurons))}
    if method in ("lorahub", "pcb_es", "adamerging"):
        given["coefficients"] = {"model": [0.5, 0.25]}
    if method == "adamerging":
        given["granularity"] = "task"
    if method == "neuronmerge":
        categories(family, tmp_path / "neurons/neurons.parquet")
        given["neurons"] = str(tmp_path / "neurons")
    run(made_family(family), tmp_path / "one", method, **given)
    run(sharded(family), tmp_path / "two", method, **given)
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()


def bare(weights: Weights) -> Weights:
    return {name.removeprefix("transformer."): value for name, value in weights.items()}


@pytest.mark.parametrize("which", ["base", "tunes"])
def test_gpt2_with_and_without_its_prefix_is_one_family(which: str, made_family, tmp_path: Path) -> None:
    """The output has the base's names; old files also hold the causal mask, which is no parameter."""
    models = made_family(family_of("GPT-2"))
    mask = {f"h.{layer}.attn.bias": torch.ones(1, 1, 64, 64) for layer in (0, 1)}
    mixed = SimpleNamespace(**vars(models))
    for name in ("base",) if which == "base" else ("math", "code"):
        changed = rewrite(getattr(models, name), tmp_path / name, lambda weights: bare(weights) | mask)
        setattr(mixed, name, changed)
    assert inspect_family(mixed.base, [mixed.math, mixed.code]).mergeable
    expected, found = run(models, tmp_path / "one", "ties"), run(mixed, tmp_path / "two", "ties")
    expected = bare(expected) if which == "base" else expected
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    cosines = [cosine(each.base, [each.code]).summary for each in (models, mixed)]
    pd.testing.assert_frame_equal(*cosines)
    if which == "base":
        model, loading = models.auto.from_pretrained(tmp_path / "two", output_loading_info=True)
        assert not loading["missing_keys"] and torch.equal(model.transformer.wte.weight, found["wte.weight"])
        loaded = load_model(mixed.base, "cpu")
        with knock_out(loaded.model, loaded.architecture, {0: [3]}):
            loaded.model(torch.tensor([[5, 9]]))


@pytest.mark.parametrize(
    ("title", "more"),
    [
        ("CLIP", {"text_model.embeddings.position_ids": torch.arange(16)[None]}),
        ("T5", {"encoder.embed_tokens.weight": "shared.weight", "lm_head.weight": "shared.weight"}),
        ("Llama", {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}),
    ],
)
def test_what_is_no_parameter_is_left_out(title: str, more: dict[str, Any], made_family, tmp_path: Path) -> None:
    models = made_family(family_of(title))
    old = SimpleNamespace(**vars(models))

    def with_more(weights: Weights) -> Weights:
        return weights | {name: weights[of].clone() if isinstance(of, str) else of for name, of in more.items()}

    old.math = rewrite(models.math, tmp_path / "math", with_more)
    assert inspect_family(old.base, [old.math]).mergeable
    expected, found = run(models, tmp_path / "one", "ties"), run(old, tmp_path / "two", "ties")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_image_model_takes_its_processor_along_and_says_how_it_is_loaded(made_family, tmp_path: Path) -> None:
    models = made_family(family_of("ViT"))
    base = rewrite(models.base, tmp_path / "base", dict)
    (tmp_path / "base/preprocessor_config.json").write_text("{}")
    run(SimpleNamespace(**vars(models) | {"base": base}), tmp_path / "out", "ties")
    assert (tmp_path / "out/preprocessor_config.json").read_text() == "{}"
    card = (tmp_path / "out/README.md").read_text()
    program = card.partition("```python\n")[2].partition("```")[0].replace("this-folder", str(tmp_path / "out"))
    found: dict = {}
    exec(program, found)
    assert type(found["model"]).__name__ == "ViTForImageClassification"


@pytest.mark.parametrize("title", ["GPT-2", "Phi-3"])
def test_a_candidate_in_memory_is_the_model_that_would_be_written(title: str, made_family) -> None:
    """Base + τ of one fine-tune is that fine-tune, also where weights are stored transposed or in small blocks."""
    models = made_family(family_of(title))
    entries = [{"model": models.math}, {"model": models.code}]
    recipe = load_recipe({"merge_method": "lorahub", "base_model": models.base, "models": entries})
    stream = open_recipe(recipe, "cpu").stream
    candidate = load_candidate(stream, list(stream.donor.tensors), None, "auto")
    candidate.fill(lambda block: block.deltas[0], lambda: None)
    expected = open_checkpoint(models.math)
    for name, weight in candidate.weights.items():
        torch.testing.assert_close(weight.float(), expected.read(name).float(), rtol=1e-5, atol=1e-6)
