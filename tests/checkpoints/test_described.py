"""A folder whose configuration describes another model than its weights make is refused, as transformers invents it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.errors import InputError
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe.reading import load_recipe
from tests.tiny import tiny_model

Weights = dict[str, torch.Tensor]
HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_model(tmp_path_factory.mktemp("described") / "whole", config=LlamaConfig, tied=False))


def changed(whole: Path, folder: Path, change: Callable[[Weights], Weights], **settings: Any) -> str:
    shutil.copytree(whole, folder)
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return str(folder)


LACKING: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "layer": (lambda w: {n: each for n, each in w.items() if "layers.1." not in n}, "lack model.layers.1."),
    "head": (lambda w: {n: each for n, each in w.items() if n != HEAD}, "lack lm_head.weight of the model"),
    "wrapped": (lambda w: {f"module.{n}": each for n, each in w.items()}, "module.lm_head.weight; .* are no names"),
    "compiled": (lambda w: {f"_orig_mod.{n}": each for n, each in w.items()}, "_orig_mod.lm_head.weight"),
}


@pytest.mark.parametrize("kind", LACKING)
def test_weights_that_lack_tensors_are_refused(kind: str, whole: Path, tmp_path: Path) -> None:
    change, said = LACKING[kind]
    folder = changed(whole, tmp_path / kind, change)
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert loaded[1]["missing_keys"]
    with pytest.raises(InputError, match=said):
        open_checkpoint(folder)


@pytest.mark.parametrize("settings", [{"hidden_size": 64}, {"intermediate_size": 64}, {"vocab_size": 300}])
def test_a_configuration_of_another_model_is_refused(settings: dict[str, int], whole: Path, tmp_path: Path) -> None:
    folder = changed(whole, tmp_path / "other", dict, **settings)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(InputError, match="does not describe the weights beside it: expected .*, found "):
        open_checkpoint(folder)


def test_a_body_without_head_is_whole_where_its_configuration_says_so(whole: Path, tmp_path: Path) -> None:
    """As AutoModel saves it."""
    change = LACKING["head"][0]
    bare = changed(whole, tmp_path / "bare", change, architectures=["LlamaModel"])
    assert HEAD not in open_checkpoint(bare).tensors


def test_a_model_that_transformers_does_not_know_is_taken_as_it_is(whole: Path, tmp_path: Path) -> None:
    folder = changed(whole, tmp_path / "unknown", LACKING["layer"][0], model_type="mine")
    assert open_checkpoint(folder).tensors


def test_a_tied_head_alone_is_the_embeddings(tmp_path: Path) -> None:
    """Some writers keep the head of a tied pair; base and tune of that kind merge with others, and tied."""
    folders = [Path(tiny_model(tmp_path / name, seed=seed)) for name, seed in (("base", 0), ("tune", 1))]
    heads = [
        changed(folder, tmp_path / f"{folder.name}-head", lambda w: {HEAD if n == EMBEDDINGS else n: w[n] for n in w})
        for folder in folders
    ]
    base, tune = (load_file(folder / "model.safetensors")[EMBEDDINGS] for folder in folders)
    for first, second in ((str(folders[0]), heads[1]), (heads[0], heads[1]), (heads[0], str(folders[1]))):
        out = tmp_path / f"out-{Path(first).name}-{Path(second).name}"
        models = [{"model": second, "parameters": {"weight": 0.5}}]
        merge(load_recipe({"merge_method": "task_arithmetic", "base_model": first, "models": models}), out)
        model = AutoModelForCausalLM.from_pretrained(out)
        torch.testing.assert_close(model.get_input_embeddings().weight.data, base + 0.5 * (tune - base))
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
