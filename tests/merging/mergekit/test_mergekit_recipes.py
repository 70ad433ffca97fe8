"""mergekit's recipes for the methods both have: they run unchanged, and give what mergekit gives where it is here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.cli import main
from nmerge_core.merging.compute.drop import Drop
from nmerge_core.merging.compute.primitives import random_bits
from nmerge_core.merging.recipe import mergekit_recipe as mergekit
from tests.merging import checkpoints, vocabularies
from tests.merging.mergekit.examples import DRAWN, EXAMPLES, OF_GRADIENTS
from tests.merging.mergekit.odd_examples import ODD

PROJECT = Path(__file__).parents[3]

NORM = "model.norm.weight"
COMPARED = [name for name in EXAMPLES if name not in DRAWN]


def content(name: str, family: SimpleNamespace) -> str:
    return filled(EXAMPLES[name], family)


def filled(text: str, family: SimpleNamespace) -> str:
    """The recipe with folders for the words that stand for them."""
    for word, model in zip(("BASE", "MATH", "CODE", "TRANSLATION"), (family.base, *family.models), strict=True):
        text = text.replace(word, model)
    return text


def odd(name: str, family: SimpleNamespace) -> str:
    return filled(json.dumps(ODD[name]), family)


def exact(recipe: str) -> str:
    """The recipe in float32, as mergekit computes in the format that it writes."""
    return recipe.replace("dtype: float16", "dtype: float32").replace("dtype: bfloat16\n", "dtype: float32\n")


def run(recipe: str, folder: Path) -> dict[str, torch.Tensor]:
    """Merge by the command line; `folder` has the recipe's file and the merge."""
    folder.mkdir()
    (folder / "recipe.yaml").write_text(recipe)
    assert main(["merge", str(folder / "recipe.yaml"), str(folder / "merged")]) == 0
    return load_file(folder / "merged" / "model.safetensors")


def jobs(recipe: str, out: Path) -> list[tuple[dict, str]]:
    """The merges that a file names, each with its folder: the last one's is `out`."""
    import yaml

    stages = list(yaml.safe_load_all(recipe))
    folders = {stage.pop("name", ""): f"{out}-{number}" for number, stage in enumerate(stages[:-1])}
    stages[-1].pop("name", None)
    for stage in stages:
        for each in stage.get("models", []):
            each["model"] = folders.get(each["model"], each["model"])
    return list(zip(stages, [*folders.values(), str(out)], strict=True))


@pytest.fixture(scope="module")
def reference(family: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """What mergekit makes of the examples, and of one DARE."""
    root = tmp_path_factory.mktemp("mergekit")
    asked = [job for name in COMPARED for job in jobs(exact(content(name, family)), root / name)]
    asked += [(json.loads(odd(name, family)), str(root / name)) for name in ODD]
    dare = {"merge_method": "dare_linear", "base_model": family.base, "dtype": "float32"}
    dare["models"] = [{"model": family.models[0], "parameters": {"weight": 1.0, "density": 0.5}}]
    asked.append((dare, str(root / "dare_linear")))
    grown = vocabularies.make_family(root / "grown")
    tokens = {"merge_method": "task_arithmetic", "base_model": grown.base, "tokenizer_source": "base"}
    tokens["models"] = [{"model": model, "parameters": {"weight": 0.5}} for model in grown.models]
    asked.append((tokens, str(root / "tokens")))
    below_0 = {"merge_method": "ties", "base_model": family.base, "parameters": {"normalize": True}, "dtype": "float32"}
    below_0["models"] = [{"model": family.models[0], "parameters": {"weight": -0.5, "density": 1.0}}]
    asked.append((below_0, str(root / "below_0")))
    done = subprocess.run(
        [sys.executable, "-m", "tests.merging.mergekit_reference"],
        input=json.dumps(asked),
        cwd=PROJECT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    known = json.loads(done.stdout.splitlines()[-1])
    return SimpleNamespace(root=root, dare=dare, tokens=tokens, below_0=below_0, known=known)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_unchanged(family: SimpleNamespace, tmp_path: Path, name: str) -> None:
    merged = run(content(name, family), tmp_path / name)
    assert merged.keys() >= family.weights.keys()
    assert "slices" in EXAMPLES[name] or merged.keys() == family.weights.keys()
    assert not torch.equal(merged[NORM].float(), family.weights[NORM])


@pytest.mark.mergekit
@pytest.mark.parametrize("name", COMPARED)
def test_an_example_gives_what_mergekit_gives(
    family: SimpleNamespace, reference: SimpleNamespace, tmp_path: Path, name: str
) -> None:
    recipe = exact(content(name, family))
    if name == "bio-merge.yml":  # mergekit trims each tensor, TIES' authors and NMerge the whole model unless told
        recipe = recipe.replace("int8_mask: true", "trim: tensor")
    ours, theirs = run(recipe, tmp_path / name), load_file(reference.root / name / "model.safetensors")
    assert ours.keys() == theirs.keys()
    more = 2 if name == "mega.yml" else 0  # its density is no whole number of entries of a tensor, of either model
    for tensor in ours:
        if not (tensor == NORM and name in OF_GRADIENTS):
            assert ours[tensor].dtype == theirs[tensor].dtype
            assert (~torch.isclose(ours[tensor], theirs[tensor], rtol=1e-5, atol=1e-6)).sum() <= more


@pytest.mark.mergekit
@pytest.mark.parametrize("name", ODD)
def test_odd_parameters_give_what_mergekit_gives(
    family: SimpleNamespace, reference: SimpleNamespace, tmp_path: Path, name: str
) -> None:
    ours, theirs = run(odd(name, family), tmp_path / "ours"), load_file(reference.root / name / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for tensor in ours:
        if not (tensor == NORM and "gradient" in name):
            torch.testing.assert_close(ours[tensor], theirs[tensor], rtol=1e-5, atol=1e-6)


@pytest.mark.mergekit
def test_a_weight_below_0_takes_a_change_back_where_mergekit_divides_its_sign_away(
    family: SimpleNamespace, reference: SimpleNamespace, tmp_path: Path
) -> None:
    """Where signs are elected ours divides by Σ |w| of what agreed: |−½| of −½ τ; mergekit by Σ w: −½ τ / −½ = τ."""
    ours = run(json.dumps(reference.below_0), tmp_path / "ours")
    theirs = load_file(reference.root / "below_0" / "model.safetensors")
    for name, base in family.weights.items():
        tau = family.tunes["math"][name] - base
        torch.testing.assert_close(ours[name], base - tau, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(theirs[name], base + tau, rtol=1e-5, atol=1e-6)


@pytest.mark.mergekit
def test_dare_drops_another_half_of_the_same_change(
    family: SimpleNamespace, reference: SimpleNamespace, tmp_path: Path
) -> None:
    ours = run(json.dumps(reference.dare), tmp_path / "ours")
    theirs = load_file(reference.root / "dare_linear" / "model.safetensors")
    for merged in (ours, theirs):
        share, kept, dropped = 0.0, 0, 0
        change = {name: family.tunes["math"][name] - family.weights[name] for name in merged}
        for name, tau in change.items():
            delta = merged[name] - family.weights[name]
            share += float((delta * tau).sum())
            dropped += int((delta == 0).sum())
            kept += int((delta != 0).sum())
        whole = sum(float((tau * tau).sum()) for tau in change.values())
        assert share / whole == pytest.approx(1, abs=0.2)  # of about 1,400 entries: a deviation of 0.05
        assert kept / (kept + dropped) == pytest.approx(0.5, abs=0.06)


@pytest.mark.mergekit
@pytest.mark.parametrize("name", [NORM, "model.layers.0.mlp.down_proj.weight"])
def test_della_keeps_what_mergekit_keeps_by_the_same_random_numbers(
    family: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from mergekit.sparsify import della_magprune

    recipe = {"merge_method": "della_linear", "base_model": family.base, "models": [{"model": family.models[0]}]}
    recipe["parameters"] = {"density": 0.6, "epsilon": 0.2, "rescale": False}
    ours = run(json.dumps(recipe), tmp_path / "ours")[name] - family.weights[name]
    tau = family.tunes["math"][name] - family.weights[name]
    (state,) = Drop((0.6,), False, 0).states(name)
    drawn = random_bits(int(state), 0, tau.numel(), tau.device)
    monkeypatch.setattr(torch, "bernoulli", lambda chance: (drawn.view(chance.shape) < chance * 2.0**32).float())
    theirs = della_magprune(tau, 0.6, 0.2)
    assert 0 < int((theirs == 0).sum()) < tau.numel()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.mergekit
def test_rows_by_token_are_those_of_mergekit(reference: SimpleNamespace, tmp_path: Path) -> None:
    ours = run(json.dumps(reference.tokens), tmp_path / "tokens")
    theirs = open_checkpoint(str(reference.root / "tokens"))
    for name in set(ours) - {"model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"}:
        torch.testing.assert_close(ours[name], theirs.read(name), rtol=1e-5, atol=1e-6)


@pytest.mark.mergekit
def test_its_methods_and_keys_are_known(reference: SimpleNamespace) -> None:
    assert sorted(mergekit.METHODS) == reference.known["methods"]
    assert sorted(mergekit.KEYS) == reference.known["keys"]


def test_out_dtype_is_what_is_written(family: SimpleNamespace, tmp_path: Path) -> None:
    merged = run(content("task_arithmetic", family), tmp_path / "merged")
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
    config = json.loads((tmp_path / "merged" / "merged" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    resolved = (tmp_path / "merged" / "merged" / "nmerge_recipe.yaml").read_text()
    assert "dtype: bfloat16" in resolved and "out_dtype" not in resolved
    assert checkpoints.CONFIG["model_type"] == config["model_type"]
