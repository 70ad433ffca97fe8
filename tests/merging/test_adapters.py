"""Models with adapters through the merge, from the recipe to what is written; and loaded to be run."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from nmerge_core.checkpoints import fingerprint, open_checkpoint
from nmerge_core.cli import main
from nmerge_core.errors import Cancelled, InputError
from nmerge_core.loading import load_model
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.plan.estimate import estimate
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.write.card import model_card
from nmerge_core.runs.request import resolve
from tests.merging.test_pipeline import StopAt
from tests.peft_adapters import edit_config, merged, random_adapter
from tests.tiny import TEXTS, tiny_model, write_corpus

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A base, two adapters of it, and the checkpoints that peft makes of base and adapter."""
    root = tmp_path_factory.mktemp("family")
    base = tiny_model(root / "base")
    references, full = [], []
    for seed, name in enumerate(("math", "code"), 1):
        adapted = random_adapter(base, root / name, seed=seed, r=4, lora_alpha=2, target_modules=LINEAR)
        references.append(f"{base}+{root / name}")
        merged(adapted).save_pretrained(root / f"{name}-full")
        for file in Path(base).glob("*token*"):
            shutil.copy(file, root / f"{name}-full")
        full.append(str(root / f"{name}-full"))
    return SimpleNamespace(root=root, base=base, references=references, full=full)


def recipe_of(family, models: list[str], method: str = "task_arithmetic", **parameters: object) -> dict:
    entries = [{"model": model} for model in models]
    return {"merge_method": method, "base_model": family.base, "models": entries, "parameters": parameters}


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties", "neuromerging"])
def test_merging_adapters_is_merging_the_models_they_make(family, tmp_path: Path, method: str) -> None:
    merge(load_recipe(recipe_of(family, family.references, method)), tmp_path / "lora")
    merge(load_recipe(recipe_of(family, family.full, method)), tmp_path / "full")
    found, expected = (load_file(tmp_path / out / "model.safetensors") for out in ("lora", "full"))
    base = load_file(Path(family.base) / "model.safetensors")
    difference, size = (
        torch.cat([(a[name] - b[name]).flatten() for name in found]).norm()
        for a, b in ((found, expected), (found, base))
    )
    assert found.keys() == expected.keys()
    assert difference < 1e-5 * size  # rounding may move single entries across a trim


def test_a_base_may_have_an_adapter_too(family, tmp_path: Path) -> None:
    """(θ0 + τ1) + 0.5·((θ0 + τ2) − (θ0 + τ1)) is the mean of the two models."""
    one, two = family.references
    recipe = {**recipe_of(family, [two], weight=0.5), "base_model": one}
    merge(load_recipe(recipe), tmp_path / "out")
    found = load_file(tmp_path / "out/model.safetensors")
    weights = [load_file(Path(folder) / "model.safetensors") for folder in family.full]
    for name, value in found.items():
        torch.testing.assert_close(value, (weights[0][name] + weights[1][name]) / 2)


def test_what_is_written_names_model_and_adapter_and_gives_the_same_bytes(
    family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(family.root)
    recipe = {**recipe_of(family, ["base+math", "base+code"]), "base_model": "base", "dtype": "bfloat16"}
    merge(load_recipe(recipe), tmp_path / "out")
    written = yaml.safe_load((tmp_path / "out/nmerge_recipe.yaml").read_text())
    assert [entry["model"] for entry in written["models"]] == family.references
    report = json.loads((tmp_path / "out/nmerge_report.json").read_text())
    assert [source["label"] for source in report["models"]] == ["base+math", "base+code"]
    assert [source["fingerprint"] for source in report["models"]] == [
        fingerprint(open_checkpoint(reference)) for reference in family.references
    ]
    monkeypatch.chdir(tmp_path)
    merge(load_recipe(tmp_path / "out/nmerge_recipe.yaml"), tmp_path / "again")
    for file in ("model.safetensors", "nmerge_recipe.yaml", "README.md"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_the_card_lists_hub_ids_of_models_and_adapters_apart(family) -> None:
    recipe = {**recipe_of(family, ["org/base+org/math", "org/base+/runs/lora"]), "base_model": "org/base"}
    card = model_card(load_recipe(recipe), ["base+math", "base+lora"], "0", ["Qwen2ForCausalLM"], "of base")
    assert yaml.safe_load(card.split("---")[1])["base_model"] == ["org/base", "org/math"]


def test_another_adapter_does_not_take_over_what_is_left(family, tmp_path: Path) -> None:
    adapter = tmp_path / "lora"
    shutil.copytree(family.root / "math", adapter)
    recipe = load_recipe(recipe_of(family, [f"{family.base}+{adapter}"]))
    with pytest.raises(Cancelled):
        merge(recipe, tmp_path / "out", progress=StopAt(20))
    edit_config(adapter, lora_alpha=1)
    merge(recipe, tmp_path / "out")
    merge(recipe, tmp_path / "clean")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "clean/model.safetensors").read_bytes()


def test_bytes_do_not_depend_on_shards_or_threads(family, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(family.base).save_pretrained(tmp_path / "base", max_shard_size="20KB")
    assert len(open_checkpoint(str(tmp_path / "base")).files) > 3
    sharded = [reference.replace(family.base, str(tmp_path / "base")) for reference in family.references]
    merge(load_recipe(recipe_of(family, family.references, "ties")), tmp_path / "one")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        merge(load_recipe(recipe_of(family, sharded, "ties")), tmp_path / "two")
    finally:
        torch.set_num_threads(threads)
    one, two = (tmp_path / out / "model.safetensors" for out in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_nothing_larger_than_a_block_or_a_factor_is_read(
    family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of 128 float32 entries, the largest factors A (4, 48) and B (48, 4); the embedding has 257·32 entries."""
    monkeypatch.setattr("nmerge_core.merging.compute.stream.BLOCK_ELEMENTS", 128)
    recipe = load_recipe(recipe_of(family, family.references, "ties"))
    sizes: list[int] = []
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: sizes.append(len(buffers[0])) or preadv(fd, buffers, at))
    merge(recipe, tmp_path / "out", device="cpu")
    assert max(sizes) == 4 * 4 * 48


def test_preflight_opens_the_adapter(family, tmp_path: Path) -> None:
    adapter = tmp_path / "lora"
    shutil.copytree(family.root / "math", adapter)
    model = f"{family.base}+{adapter}"
    found = estimate(load_recipe(recipe_of(family, [model])), tmp_path / "out")
    size = (adapter / "adapter_model.safetensors").stat().st_size
    assert found.bytes_read == 2 * open_checkpoint(family.base).bytes + size
    edit_config(adapter, use_dora=True)
    with pytest.raises(InputError, match="use_dora"):
        estimate(load_recipe(recipe_of(family, [model])), tmp_path / "out")


def test_a_broken_adapter_is_named_and_nothing_is_left(family, tmp_path: Path) -> None:
    adapter = tmp_path / "lora"
    shutil.copytree(family.root / "math", adapter)
    weights = load_file(adapter / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    weights[name][3, 1] = float("nan")
    save_file(weights, adapter / "adapter_model.safetensors")
    (tmp_path / "target").mkdir()
    message = r"base\+.*lora, tensor model.layers.1.mlp.up_proj.weight: rows \d+ to \d+ hold NaN"
    with pytest.raises(InputError, match=message):
        merge(load_recipe(recipe_of(family, [f"{family.base}+{adapter}"])), tmp_path / "target/out")
    assert list((tmp_path / "target").iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_model_has_the_weights_that_a_merge_of_its_dtype_writes(tmp_path: Path, dtype: torch.dtype) -> None:
    base = tiny_model(tmp_path / "base", dtype=dtype)
    options: dict[str, Any] = {
        "r": 4,
        "target_modules": [*LINEAR, "embed_tokens"],
        "ensure_weight_tying": True,
        "bias": "all",
    }
    random_adapter(base, tmp_path / "lora", **options)
    reference = f"{base}+{tmp_path / 'lora'}"
    merge(load_recipe({"merge_method": "linear", "models": [{"model": reference}]}), tmp_path / "out")
    loaded = load_model(reference, "cpu", str(dtype).removeprefix("torch."))
    assert loaded.label == "base+lora" and loaded.model.dtype == dtype
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight
    state = loaded.model.state_dict()
    for name, value in load_file(tmp_path / "out/model.safetensors").items():
        assert torch.equal(state[name], value), name


def test_every_command_takes_a_model_with_an_adapter(family, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = family.references[0]
    corpus = write_corpus(tmp_path / "corpus", TEXTS)
    (tmp_path / "plain.jsonl").write_text(json.dumps({"text": "some words"}) + "\n")
    (tmp_path / "plain.yaml").write_text(
        "task: plain\ndataset_path: json\ndataset_kwargs: {data_files: {test: plain.jsonl}}\ntest_split: test\n"
        'output_type: loglikelihood_rolling\ndoc_to_text: ""\ndoc_to_target: "{{text}}"\n'
        "metric_list:\n  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}\n"
    )
    task, neurons = str(tmp_path / "plain.yaml"), str(tmp_path / "neurons")
    assert main(["inspect", family.base, model]) == 0
    assert "base+math" in capsys.readouterr().out
    assert main(["classify", model, "--corpus", corpus, "--out", neurons, "--top-k", "3"]) == 0
    meta = json.loads((tmp_path / "neurons/meta.json").read_text())
    assert (meta["label"], meta["model_fingerprint"]) == ("base+math", fingerprint(open_checkpoint(model)))
    assert main(["cosine", family.base, model]) == 0
    capsys.readouterr()
    for each in (model, family.full[0]):
        assert main(["evaluate", each, "--tasks", task]) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines() if "bits_per_byte" in line]
    assert [row[0] for row in table] == ["base+math", "math-full"] and table[0][3] == table[1][3]
    assert main(["linearity", family.base, model, "--corpus", corpus, "--samples", "2"]) == 0


def test_a_run_of_the_app_knows_the_adapter(family, tmp_path: Path) -> None:
    adapter = tmp_path / "lora"
    shutil.copytree(family.root / "math", adapter)
    parameters = {"models": [f"{family.base}+{adapter}"], "tasks": ["plain"]}
    before = resolve(tmp_path, "evaluate", parameters)
    assert before.parameters["models"] == [f"{family.base}+{adapter}"]
    assert before.title == "evaluate base+lora"
    edit_config(adapter, lora_alpha=1)
    assert resolve(tmp_path, "evaluate", parameters).id != before.id
