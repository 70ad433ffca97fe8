"""Merges agree with what the methods' authors' released code makes of the same checkpoints (tests/golden)."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.write.report import Report

GOLDEN = Path(__file__).parents[1] / "golden" / "public_qwen2"
TASKS = ("math", "code", "translation")
METHODS = {
    "linear": ("linear", {}),
    "task_arithmetic_w0.4": ("task_arithmetic", {"weight": 0.4}),
    "ties_d0.2_w1.0": ("ties", {"density": 0.2, "lambda": 1.0, "trim": "model"}),
    "pcb_r0.2_w1.0": ("pcb", {"mask_ratio": 0.2, "lambda": 1.0, "tail_clip": 0.01}),
    "neuromerging_r0.15_auto": ("neuromerging", {"mask_ratio": 0.15, "lambda_1": 0.0, "lambda_2": "auto"}),
    "neuromerging_r0.1_l1_0_l2_3.6": ("neuromerging", {"mask_ratio": 0.1, "lambda_1": 0.0, "lambda_2": 3.6}),
}


def merged(name: str, out: Path) -> Report:
    method, parameters = METHODS[name]
    models = [{"model": str(GOLDEN / task)} for task in TASKS]
    recipe = {"merge_method": method, "base_model": str(GOLDEN / "base"), "models": models, "parameters": parameters}
    return merge(load_recipe(recipe), out)


def test_every_golden_output_is_compared() -> None:
    assert {f"expected_{name}.safetensors" for name in METHODS} == {path.name for path in GOLDEN.glob("expected_*")}


@pytest.mark.parametrize("name", METHODS)
def test_a_merge_agrees_with_the_authors_code(tmp_path: Path, name: str) -> None:
    merged(name, tmp_path / "merged")
    found, base = (load_file(folder / "model.safetensors") for folder in (tmp_path / "merged", GOLDEN / "base"))
    expected = load_file(GOLDEN / f"expected_{name}.safetensors")
    assert found.keys() == expected.keys()
    error = sum(float((found[key].double() - value.double()).square().sum()) for key, value in expected.items())
    change = sum(float((value.double() - base[key].double()).square().sum()) for key, value in expected.items())
    assert (error / change) ** 0.5 < 1e-6  # as docs/results.md says


def test_sigma_and_lambda_2_are_the_authors(tmp_path: Path) -> None:
    facts = merged("neuromerging_r0.15_auto", tmp_path / "merged").facts
    expected = json.loads((GOLDEN / "meta.json").read_text())
    assert list(facts["sigma"].values()) == pytest.approx(expected["sigma_r0.15"], rel=1e-8)
    assert facts["lambda_2"] == pytest.approx(expected["lambda2_r0.15"], rel=1e-8)
