"""RegMean++ against a whole merged model that is run anew for every layer."""

import json
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from nmerge_core.errors import Cancelled, InputError
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.plan import along
from nmerge_core.merging.plan.estimate import estimate
from nmerge_core.merging.plan.kept import Measurement, NotMeasured
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.recipe import Recipe
from tests.merging.test_statistics_methods import stop_merging
from tests.tiny import TEXTS, tiny_model, write_corpus

WEIGHTS, SCALE, TASKS = (1.0, 0.5), 0.8, ("math", "code")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tuned")
    for seed, name in enumerate(TASKS, 1):
        tiny_model(root / name, seed=seed)
    write_corpus(root / "corpus", TEXTS)
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/statistics"


def recipe_of(tuned: Path, method: str = "regmean_pp", **parameters: object) -> Recipe:
    pairs = zip(TASKS, WEIGHTS, strict=True)
    models = [{"model": str(tuned / name), "parameters": {"weight": weight}} for name, weight in pairs]
    shared = {"corpus": str(tuned / "corpus"), "scale": SCALE} | parameters
    return load_recipe({"merge_method": method, "models": models, "parameters": shared})


def naive(tuned: Path) -> dict[str, Tensor]:
    """Merge a whole model layer by layer, each text by itself, in float64."""
    models = [AutoModelForCausalLM.from_pretrained(tuned / name, dtype=torch.float64).eval() for name in TASKS]
    whole = AutoModelForCausalLM.from_pretrained(tuned / TASKS[0], dtype=torch.float64).eval()
    share = torch.tensor(WEIGHTS, dtype=torch.float64) / sum(WEIGHTS)
    with torch.no_grad():
        for own, *each in zip(whole.parameters(), *(model.parameters() for model in models), strict=True):
            own.copy_(sum(w * value for w, value in zip(share, each, strict=True)))
        tokenizer = AutoTokenizer.from_pretrained(tuned / TASKS[0])
        for number, layer in enumerate(whole.model.layers):
            grams = []
            for model, task in zip(models, TASKS, strict=True):
                seen: dict[str, list[Tensor]] = {}
                candidate = model.model.layers[number]
                hooks = [
                    module.register_forward_pre_hook(
                        lambda module, args, name=name, seen=seen: seen.setdefault(name, []).append(args[0][0])
                    )
                    for name, module in candidate.named_modules()
                    if isinstance(module, nn.Linear)
                ]

                def enters(module: nn.Module, args: tuple[Tensor], keywords: dict, candidate: nn.Module = candidate):
                    candidate(*args, **keywords)  # the model's own layer, on what the merge gives it

                hooks.append(layer.register_forward_pre_hook(enters, with_kwargs=True))
                for text in TEXTS[task]:
                    whole(**tokenizer(text, return_tensors="pt"), use_cache=False)
                for hook in hooks:
                    hook.remove()
                inputs = {name: torch.cat(found) for name, found in seen.items()}  # (tokens, inputs)
                grams.append({name: x.T @ x / len(x) for name, x in inputs.items()})
            for name in grams[0]:
                scaled = [(SCALE + (1 - SCALE) * torch.eye(len(g[name]))) * g[name] for g in grams]
                each = [model.model.layers[number].get_submodule(name).weight for model in models]
                above = sum(w * v @ g for w, v, g in zip(WEIGHTS, each, scaled, strict=True))
                below = sum(w * g for w, g in zip(WEIGHTS, scaled, strict=True))
                layer.get_submodule(name).weight.copy_(torch.linalg.solve(below, above, left=False))
    return dict(whole.named_parameters())


def test_it_equals_a_whole_merged_model_run_for_every_layer(tuned: Path, tmp_path: Path) -> None:
    merge(recipe_of(tuned), tmp_path / "out")
    found, expected = load_file(tmp_path / "out/model.safetensors"), naive(tuned)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value.float(), atol=2e-5, rtol=2e-4, msg=name)
    merge(recipe_of(tuned, "regmean"), tmp_path / "plain")
    plain = load_file(tmp_path / "plain/model.safetensors")
    assert torch.equal(plain["model.embed_tokens.weight"], found["model.embed_tokens.weight"])
    deep = [name for name in found if "layers.1." in name and "proj.weight" in name]
    assert deep and not any(torch.allclose(plain[name], found[name], atol=1e-4) for name in deep)


def test_it_measures_once_and_goes_on_after_a_kill(tuned: Path, tmp_path: Path, own_cache: Path) -> None:
    recipe = recipe_of(tuned, samples=3)
    assert estimate(recipe, tmp_path / "out").solving
    merge(recipe, tmp_path / "whole")
    with pytest.raises(Cancelled):
        merge(recipe, tmp_path / "out", progress=stop_merging)
    stages: list[str] = []
    merge(recipe, tmp_path / "out", progress=lambda stage, done, total, unit="": stages.append(stage))
    assert "Inputs along the merge" not in stages and len(list(own_cache.iterdir())) == 1
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    rows = json.loads((tmp_path / "out/nmerge_report.json").read_text())["facts"]["statistics"]
    assert [(row["label"], row["categories"], row["texts"]) for row in rows] == [
        ("math", ["math"], 3),
        ("code", ["code"], 3),
    ]
    merge(recipe_of(tuned, samples=3, scale=0.5), tmp_path / "other")  # other merged layers, so other inputs
    assert len(list(own_cache.iterdir())) == 2


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("damage", [False, True])
def test_killed_while_it_measures_it_goes_on_at_its_layer(
    tuned: Path, tmp_path: Path, own_cache: Path, damage: bool
) -> None:
    """Each model's texts are one batch, so that of 4 batches 2 are done at layer 0, and the kill comes at the third."""
    recipe = recipe_of(tuned, samples=3)

    def die(stage: str, done: float, total: float, unit: str = "") -> None:
        if stage == "Inputs along the merge" and done > total / 2:
            os.kill(os.getpid(), signal.SIGKILL)

    if (child := os.fork()) == 0:
        try:
            merge(recipe, tmp_path / "out", progress=die)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    [part] = own_cache.iterdir()
    if damage:
        (part / "states-1.safetensors").write_bytes(b"")
    told: list[float] = []
    merge(
        recipe,
        tmp_path / "out",
        progress=lambda stage, done, *_: told.append(done) if stage == "Inputs along the merge" else None,
    )
    assert told == ([1, 2, 3, 4] if damage else [3, 4])
    [found] = own_cache.iterdir()
    shutil.move(found, tmp_path / "found")
    merge(recipe, tmp_path / "whole")
    [whole] = own_cache.iterdir()
    assert files_of(tmp_path / "found") == files_of(whole)
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def test_of_two_processes_that_collect_the_same_both_go_on(
    tuned: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def beside_another(context: Any, values: Any, folder: Path, name: str) -> None:
        collect(context, values, folder, name)
        shutil.copytree(folder, own_cache / name)  # the other is done first

    collect = along._collect
    monkeypatch.setattr(along, "_collect", beside_another)
    merge(recipe_of(tuned, samples=2), tmp_path / "out")
    [folder] = own_cache.iterdir()
    assert json.loads((folder / "0/meta.json").read_text())["along"] == folder.name  # and no name of a process


def test_a_merge_that_measures_nothing_says_which_run_does(tuned: Path, tmp_path: Path) -> None:
    recipe, asked = recipe_of(tuned, samples=2), list[Measurement]()

    def kept(measurements: Sequence[Measurement]) -> list[Path | None]:
        asked.extend(measurements)
        raise NotMeasured(measurements)

    with pytest.raises(NotMeasured):
        merge(recipe, tmp_path / "out", kept=kept)
    assert [each.kind for each in asked] == ["merge"] and asked[0].parameters == {"recipe": recipe.content}
    merge(recipe, tmp_path / "out")
    merge(recipe, tmp_path / "again", kept=kept)  # by what that run has left in the cache
    assert len(asked) == 1


def test_statistics_are_named_for_all_models_or_for_none(tuned: Path, tmp_path: Path) -> None:
    models: list[dict[str, Any]] = [{"model": str(tuned / name)} for name in TASKS]
    models[0]["parameters"] = {"statistics": "somewhere"}
    shared = {"corpus": str(tuned / "corpus")}
    with pytest.raises(InputError, match="statistics.*expected a folder for every model, or for none"):
        merge(load_recipe({"merge_method": "regmean_pp", "models": models, "parameters": shared}), tmp_path / "out")
