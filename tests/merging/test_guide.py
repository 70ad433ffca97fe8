"""The methods that CONTRIBUTING.md shows in full: files that run as they stand, and compute what they say."""

import importlib.util
import json
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nmerge_core.checkpoints.raw_bits import bits_of
from nmerge_core.errors import InputError
from nmerge_core.merging.compute import stream
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.plan.estimate import estimate
from nmerge_core.merging.plan.opened import open_recipe
from nmerge_core.merging.recipe import catalogue, registry
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.registry import methods
from tests.merging.compute.test_entrywise import WEIGHTS, merged_by_kernel, merged_by_torch, models
from tests.merging.merged import assert_same, run, thresholds
from tests.merging.test_parts import composed, merged, neurons_of

GUIDE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"`nmerge_core/merging/methods/(\w+)\.py`:\n\n```python\n(.*?)```", GUIDE, re.DOTALL))

LAMBDA: dict[str, Any] = {"lambda": 0.5}


@pytest.fixture(autouse=True)
def files(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """Register each of the guide's files for the length of a test."""
    monkeypatch.setattr(registry, "_METHODS", dict(methods()))
    folder = Path(os.environ["NUMBA_CACHE_DIR"]) / "guide"  # a loop is compiled again where its file is a new one
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, text in EXAMPLES.items():
        file = folder / f"{name}.py"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(f"guide_{name}", file)
        assert spec and spec.loader
        found[name] = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, found[name])
        spec.loader.exec_module(found[name])
    return found


def test_a_part_is_checked_and_counted_as_alone(family, tmp_path: Path) -> None:
    own = {"code": {"method": "band", "kept": 0.1, "left_out": 0.5}}
    wrong = composed(family, general="dare", specific=own, others="dare")
    for work in (estimate, merge):
        with pytest.raises(InputError, match=r"key 'parameters\.specific\.code\.left_out' \(neuronmerge\): expected"):
            work(wrong, tmp_path / "out")
    plain = composed(family, general="dare", specific="drop", others="dare")
    alone = load_recipe(
        {"merge_method": "low_rank", "base_model": family.base, "models": [{"model": model} for model in family.models]}
    )
    once = alone.method.needs(open_recipe(alone, "cpu").stream, alone.values()).operations
    for specific, times in (({"math": "low_rank"}, 1), ("low_rank", len(family.models))):
        recipe = composed(family, general="dare", specific=specific, others="dare")
        opened = open_recipe(recipe, "cpu").stream
        assert recipe.method.needs(opened, recipe.values()).operations == times * once > 0
        assert estimate(recipe, tmp_path / "out").seconds > estimate(plain, tmp_path / "out").seconds


def test_there_is_a_method_of_each_form() -> None:
    assert {name: methods()[name].rule is not None for name in EXAMPLES} == {
        "agreement": True,
        "mean_direction": False,
        "low_rank": False,
        "band": True,
    }


def test_agreement(family: Any, tmp_path: Path) -> None:
    merged = run(family, tmp_path / "out", "agreement", **LAMBDA)
    assert_same(merged, family, lambda name, tau: 0.5 * torch.where(tau * tau.sum(0) > 0, tau, 0.0).sum(0))


def test_mean_direction(family: Any, tmp_path: Path) -> None:
    merged = run(family, tmp_path / "out", "mean_direction", **LAMBDA)

    def delta(name: str, tau: torch.Tensor) -> torch.Tensor:
        if tau.dim() == 2:
            return 0.5 * tau.mean(0)
        rows = []
        for row in tau.double().unbind(1):
            direction = sum(own / own.norm() for own in row)
            rows.append(0.5 * sum(own.norm() for own in row) / len(row) * direction / direction.norm())
        return torch.stack(rows).float()

    assert_same(merged, family, delta)


def test_low_rank(family: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BLOCK_ELEMENTS", 64)  # a few rows, were it not for `whole`
    merged = run(family, tmp_path / "out", "low_rank", rank=2, weight=0.4)

    def delta(name: str, tau: torch.Tensor) -> torch.Tensor:
        if tau.dim() == 2 or ".layers." not in name:
            return 0.4 * tau.sum(0)
        nearest = torch.zeros_like(tau[0], dtype=torch.float64)
        for own in tau.double():
            left, sizes, right = torch.linalg.svd(own, full_matrices=False)
            nearest += sum(sizes[i] * torch.outer(left[:, i], right[i]) for i in range(2))
        return 0.4 * nearest.float()

    assert_same(merged, family, delta)


def test_a_whole_matrix_takes_its_memory(family: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block is a layer's largest matrix, or 64 entries; of three models, the base and six copies."""
    monkeypatch.setattr("nmerge_core.merging.plan.estimate.BLOCK_ELEMENTS", 64)
    monkeypatch.setattr("nmerge_core.merging.plan.estimate.cores", lambda: 1)
    recipe = {"base_model": family.base, "models": [{"model": model} for model in family.models]}
    whole, rows = (
        estimate(load_recipe({**recipe, "merge_method": name}), tmp_path) for name in ("low_rank", "mean_direction")
    )
    largest = max(tensor.numel() for name, tensor in family.weights.items() if ".layers." in name)
    assert whole.peak_memory - rows.peak_memory == (largest - 64) * 4 * (1 + 3 + 6)
    assert whole.seconds > rows.seconds


def test_band(family: Any, tmp_path: Path) -> None:
    merged = run(family, tmp_path / "out", "band", kept=0.5, left_out=0.1, weight=0.4)
    low, high = (torch.tensor(thresholds(family, share)) for share in (0.5, 0.1))

    def delta(name: str, tau: torch.Tensor) -> torch.Tensor:
        shape = (-1, *[1] * (tau.dim() - 1))
        inside = (tau.abs() >= low.view(shape)) & (tau.abs() < high.view(shape))
        return 0.4 * torch.where(inside, tau, 0.0).sum(0)

    assert_same(merged, family, delta)
    report = json.loads((tmp_path / "out/nmerge_report.json").read_text())
    assert [result["name"] for result in report["results"]] == ["lows", "highs"]
    assert list(report["facts"]["lows"].values()) == low.tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_band_gives_the_same_bits_both_ways(files: dict[str, ModuleType], dtype: torch.dtype) -> None:
    rule, values = files["band"].Band(WEIGHTS, (0.1, 0.5, 0.0), (1.0, 0.6, 2.0)), models(dtype)
    compiled, naive = merged_by_kernel(rule, values, True, dtype), merged_by_torch(rule, values, True, dtype)
    assert (bits_of(compiled) == bits_of(naive)).all()


def test_an_empty_band_is_wrong_input(family: Any, tmp_path: Path) -> None:
    recipe = {"merge_method": "band", "base_model": family.base, "models": [{"model": family.models[0]}]}
    recipe["parameters"] = {"kept": 0.1, "left_out": 0.3}
    for work in (merge, estimate):
        with pytest.raises(
            InputError, match=r"'parameters.left_out' \(band\): expected less than 'kept' \(0.1\); found"
        ):
            work(load_recipe(recipe), tmp_path / "out")


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_follows_from_a_registration(family: Any, tmp_path: Path, name: str) -> None:
    """The written recipe, the estimate, the documentation, and the use for one category's neurons."""
    whole = run(family, tmp_path / "whole", name)
    merge(load_recipe(tmp_path / "whole/nmerge_recipe.yaml"), tmp_path / "again")
    again = load_file(tmp_path / "again/model.safetensors")
    assert all(torch.equal(again[tensor], value) for tensor, value in whole.items())

    recipe = {"base_model": family.base, "models": [{"model": family.models[0]}]}
    once, known = (estimate(load_recipe({**recipe, "merge_method": each}), tmp_path) for each in ("subspace", name))
    assert known.bytes_read == {"agreement": 1, "mean_direction": 1, "low_rank": 1, "band": 3}[name] * once.bytes_read
    assert methods()[name].computes in catalogue.in_full(methods()[name]) and f"[`{name}`]" in catalogue.document()

    ours = merged(
        composed(family, general="dare", specific={"code": {"method": name}}, others="dare"), tmp_path / "part"
    )
    tensor = "model.layers.1.mlp.up_proj.weight"
    code = [neuron for neuron, category in enumerate(neurons_of(family)[1]) if category == "code"]
    assert code and torch.equal(ours[tensor][code], whole[tensor][code])
