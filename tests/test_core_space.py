"""Adapters merged in their core space: exact, an adapter again, and as PEFT applies it."""

import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.checkpoints.adapter_opening import WEIGHTS
from nmerge_core.cli import main
from nmerge_core.core_space import combine
from nmerge_core.errors import InputError
from tests.peft_adapters import GPT2, QWEN2, random_adapter, save_model

TARGETS = {"qwen2": ["q_proj", "down_proj"], "gpt2": ["c_attn", "c_proj"]}
CONFIGS = {"qwen2": QWEN2, "gpt2": GPT2}


@pytest.fixture(scope="module", params=["qwen2", "gpt2"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A base and two adapters of other ranks, scales and layers; GPT-2 stores its weights transposed."""
    root, transposed = tmp_path_factory.mktemp(request.param), request.param == "gpt2"
    base = save_model(root / "base", CONFIGS[request.param])
    targets: dict[str, Any] = {"fan_in_fan_out": transposed, "target_modules": TARGETS[request.param]}
    random_adapter(base, root / "one", seed=1, r=3, **targets)
    random_adapter(
        base, root / "two", seed=2, r=2, lora_alpha=5, **targets | {"target_modules": targets["target_modules"][:1]}
    )
    return SimpleNamespace(root=root, base=base, adapters=[f"{base}+{root / name}" for name in ("one", "two")])


def recipe_of(made: SimpleNamespace, method: str, **parameters: Any) -> dict[str, Any]:
    models = [{"model": each} for each in made.adapters]
    return {"merge_method": method, "base_model": made.base, "models": models, "parameters": parameters}


def changes(base: str, model: str) -> dict[str, torch.Tensor]:
    """What a model changed, in float64."""
    origin, own = open_checkpoint(base), open_checkpoint(model)
    return {name: own.read(name).double() - origin.read(name).double() for name in origin.tensors}


def test_the_weighted_sum_is_the_adapters_own(made: SimpleNamespace, tmp_path: Path) -> None:
    """What is linear is the same in any space: 0.5 s₁B₁A₁ + 2 s₂B₂A₂, at a rank of 3 + 2 where both change a layer."""
    recipe = recipe_of(made, "task_arithmetic")
    for entry, weight in zip(recipe["models"], (0.5, 2.0), strict=True):
        entry["parameters"] = {"weight": weight}
    combine(recipe, tmp_path / "out")
    found = changes(made.base, f"{made.base}+{tmp_path / 'out'}")
    one, two = (changes(made.base, each) for each in made.adapters)
    for name, change in found.items():
        torch.testing.assert_close(change, 0.5 * one[name] + 2 * two[name], atol=2e-6, rtol=1e-5)
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config["r"] == 5 and set(config["rank_pattern"].values()) == {3}


def test_isotropic_directions_are_those_of_the_whole_matrices(made: SimpleNamespace, tmp_path: Path) -> None:
    """U and V are orthonormal, so a matrix and its core have the same singular values: of Iso-C their mean over the
    core's side, in each direction of the sum."""
    combine(recipe_of(made, "iso_c", **{"lambda": 1.0}), tmp_path / "out")
    found = changes(made.base, f"{made.base}+{tmp_path / 'out'}")
    one, two = (changes(made.base, each) for each in made.adapters)
    for name, change in found.items():
        if change.dim() < 2:
            assert not change.any()
            continue
        left, sizes, right = torch.linalg.svd(one[name] + two[name], full_matrices=False)
        real = sizes > 1e-5
        expected = sizes[real].mean() * left[:, real] @ right[real] if real.any() else torch.zeros_like(change)
        torch.testing.assert_close(change, expected, atol=1e-5, rtol=1e-4)


def test_peft_makes_of_the_adapter_what_is_read_here(made: SimpleNamespace, tmp_path: Path) -> None:
    combine(recipe_of(made, "ties", density=0.5), tmp_path / "out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of peft's own
        base = AutoModelForCausalLM.from_pretrained(made.base)
        whole = PeftModel.from_pretrained(base, tmp_path / "out").merge_and_unload()
    theirs, ours = whole.state_dict(), open_checkpoint(f"{made.base}+{tmp_path / 'out'}")
    for name in ours.tensors:
        torch.testing.assert_close(theirs[name], ours.read(name).float(), atol=1e-5, rtol=1e-5)
    assert any(change.any() for change in changes(made.base, f"{made.base}+{tmp_path / 'out'}").values())


def test_methods_and_steps_of_weights_alone_are_taken_and_others_told(made: SimpleNamespace, tmp_path: Path) -> None:
    for number, (method, then) in enumerate([("dare_ties", None), ("neuromerging", None), ("tsv_m", "svc")]):
        for name in (f"{number}", f"{number} again"):
            combine({**recipe_of(made, method), "then": then}, tmp_path / name)
        files = [(tmp_path / name / WEIGHTS).read_bytes() for name in (f"{number}", f"{number} again")]
        assert files[0] == files[1]
    for wrong in (recipe_of(made, "linear"), recipe_of(made, "sublin"), {**recipe_of(made, "ties"), "then": "aim"}):
        with pytest.raises(InputError, match="by their weights alone"):
            combine(wrong, tmp_path / "out")
    models = [{"model": made.adapters[0]}, {"model": str(tmp_path)}]
    with pytest.raises(InputError, match=r"expected .*\+ADAPTER, a LoRA of the recipe's base"):
        combine({**recipe_of(made, "ties"), "models": models}, tmp_path / "out")
    along = {**recipe_of(made, "subspace"), "parameters": {"keep": "parallel"}}  # to a base of zeros: there is no part
    with pytest.raises(InputError, match="Keep parallel changes nothing in the adapters' core space"):
        combine(along, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_leaves_an_adapter(made: SimpleNamespace, tmp_path: Path, capsys) -> None:
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe_of(made, "task_arithmetic")))
    assert main(["combine", str(tmp_path / "recipe.yaml"), str(tmp_path / "out")]) == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "nmerge_recipe.yaml", "nmerge_report.json", "README.md"
    }  # fmt: skip
    assert main(["combine", str(tmp_path / "recipe.yaml"), str(tmp_path / "out")]) == 2
    assert "exists already" in capsys.readouterr().err
