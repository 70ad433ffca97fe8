"""A merge in memory from a notebook."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import nmerge_core as nm
from nmerge_core.errors import InputError
from tests.tiny_family import make_family


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return make_family(tmp_path_factory.mktemp("family"))


def recipe(made: SimpleNamespace, scale: Any) -> dict[str, Any]:
    models = [{"model": made.math}, {"model": made.code}]
    named = {"merge_method": "task_arithmetic", "base_model": made.base, "models": models}
    return {**named, "parameters": {"lambda": scale}}


def test_it_follows_and_is_kept_as_it_is(made: SimpleNamespace, tmp_path: Path) -> None:
    live = nm.live(recipe(made, 0.5), progress=False)
    first = live.generate("2 + 2", max_new_tokens=4)
    only_last = [{"filter": "layers.1.", "value": 2.0}, {"value": 0.5}]
    assert live.follow(recipe(made, only_last), progress=False) is live and live.tensors == 12
    kept = live.keep(tmp_path / "kept", progress=False)
    written = load_file(Path(kept) / "model.safetensors")
    own = live.model.state_dict()
    assert all(torch.equal(own[name], weights) for name, weights in written.items())
    assert nm.generate(kept, "2 + 2", max_new_tokens=4) == {"kept": live.generate("2 + 2", max_new_tokens=4)}
    assert live.follow(recipe(made, 0.5), progress=False).generate("2 + 2", max_new_tokens=4) == first
    assert live.tokenizer("2 + 2")["input_ids"]


def test_what_it_cannot_follow_is_said(made: SimpleNamespace) -> None:
    live = nm.live(recipe(made, 0.5), progress=False)
    other = recipe(made, 0.5) | {"models": [{"model": made.math}]}
    with pytest.raises(InputError, match="expected a recipe of the models"):
        live.follow(other, progress=False)
    slices = [{"sources": [{"model": made.math, "layer_range": [0, 1]}]}]
    with pytest.raises(InputError, match="mergekit merges to disk alone|mergekit is not installed"):
        nm.live({"engine": "mergekit", "merge_method": "passthrough", "slices": slices})


def test_a_folder_by_two_slashes_is_the_same_folder(made: SimpleNamespace, tmp_path: Path) -> None:
    content = recipe(made, 0.5)
    doubled = content | {"models": [{"model": f"/{each['model']}"} for each in content["models"]]}
    written = [nm.merge(each, tmp_path / name, progress=False) for name, each in (("a", content), ("b", doubled))]
    plain, other = ((Path(each) / "model.safetensors").read_bytes() for each in written)
    assert plain == other
