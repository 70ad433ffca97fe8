"""Recipes in stages: as one merge after the other by hand, killed in the middle, and what is wrong with them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from nmerge_core import number_format
from nmerge_core.cli import main
from nmerge_core.errors import Cancelled, InputError
from nmerge_core.inputs import Places
from nmerge_core.merging import engine
from nmerge_core.merging.pipeline import merge as merge_one
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.staged_recipe import StagedRecipe, read_staged
from nmerge_core.merging.recipe_parameter import RecipeParameter


def stages_of(family: SimpleNamespace) -> dict[str, dict[str, Any]]:
    """Two merges, and a third of both."""
    math, code, translation = ({"model": model} for model in family.models)
    return {
        "skills": {"merge_method": "ties", "base_model": family.base, "models": [math, code]},
        "words": {"merge_method": "linear", "models": [{"model": "skills"}, translation]},
        "last": {"merge_method": "task_arithmetic", "base_model": family.base,
                 "models": [{"model": "words", "parameters": {"weight": 0.5}}, {"model": "skills"}]},
    }  # fmt: skip


def staged(family: SimpleNamespace) -> dict[str, Any]:
    stages = stages_of(family)
    last = stages.pop("last")
    return {"stages": stages, **last}


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def by_hand(family: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    root = tmp_path_factory.mktemp("hand")
    for name, content in stages_of(family).items():
        recipe = load_recipe(content).renamed(lambda each: str(root / each) if (root / each).exists() else each)
        merge_one(recipe, root / name)
    return weights(root / "last")


def test_stages_are_merges_one_after_the_other(family: SimpleNamespace, by_hand: bytes, tmp_path: Path) -> None:
    recipe = engine.load(staged(family))
    assert isinstance(recipe, StagedRecipe) and {*recipe.references} == {family.base, *family.models}
    engine.merge(recipe, tmp_path / "out")
    assert weights(tmp_path / "out") == by_hand and [path.name for path in tmp_path.iterdir()] == ["out"]
    report = json.loads((tmp_path / "out/nmerge_report.json").read_text())
    assert [model["model"] for model in report["models"]] == ["words", "skills"]
    assert [model["label"] for model in report["facts"]["stages"]["skills"]["models"]] == ["math", "code"]
    for file in ("nmerge_recipe.yaml", "nmerge_report.json", "README.md"):
        assert ".stages" not in (tmp_path / "out" / file).read_text()
    engine.merge(engine.load(tmp_path / "out/nmerge_recipe.yaml"), tmp_path / "again")
    assert weights(tmp_path / "again") == by_hand


class StopIn:
    """A progress that stops the merge in the middle of a stage, as its reports begin."""

    def __init__(self, begins: str) -> None:
        self.begins = begins

    def __call__(self, stage: str, done: float, total: float, unit: str = "") -> None:
        if stage == f"{self.begins}: Merging" and done > total / 2:
            raise Cancelled


STAGES = ["stage 'skills'", "last stage"]  # which reads what words computes


@pytest.mark.parametrize("at", STAGES)
def test_a_killed_chain_goes_on_to_the_same_bytes(
    family: SimpleNamespace, by_hand: bytes, tmp_path: Path, at: str
) -> None:
    recipe = engine.load(staged(family))
    with pytest.raises(Cancelled):
        engine.merge(recipe, tmp_path / "out", progress=StopIn(at))
    assert [path.name for path in tmp_path.iterdir()] == [".out.stages"]
    seen: list[str] = []
    engine.merge(recipe, tmp_path / "out", progress=lambda stage, done, total, unit="": seen.append(stage))
    assert weights(tmp_path / "out") == by_hand and [path.name for path in tmp_path.iterdir()] == ["out"]
    assert list(dict.fromkeys(each.partition(":")[0] for each in seen)) == STAGES[STAGES.index(at) :]


def test_one_merge_in_stages_at_a_time_makes_an_output(family: SimpleNamespace, by_hand: bytes, tmp_path: Path) -> None:
    """Another recipe would remove what this one has in progress. A folder's name may have what JSON escapes."""
    recipe, out, refused = engine.load(staged(family)), tmp_path / 'größer "1"', list[str]()
    other = engine.load({**staged(family), "seed": 1})

    def begin_another(stage: str, done: float, total: float, unit: str = "") -> None:
        if stage == "last stage: Merging" and not refused:
            with pytest.raises(InputError, match="is merging into it") as error:
                engine.merge(other, out)
            refused.append(str(error.value))

    engine.merge(recipe, out, progress=begin_another)
    assert refused and weights(out) == by_hand and [path.name for path in tmp_path.iterdir()] == [out.name]
    assert ".stages" not in (out / "nmerge_report.json").read_text() + (out / "nmerge_recipe.yaml").read_text()


def test_a_model_that_was_written_to_meanwhile_is_merged_anew(
    family: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large file the fingerprint knows samples alone, as here of a small one; the change lies between these."""
    module = sys.modules["nmerge_core.checkpoints.fingerprint"]
    monkeypatch.setattr(module, "_WHOLE_BYTES", 0)
    monkeypatch.setattr(module, "_SAMPLE_BYTES", 4)
    shutil.copytree(family.models[0], tmp_path / "math")
    recipe = engine.load(staged(SimpleNamespace(base=family.base, models=[str(tmp_path / "math"), *family.models[1:]])))
    with pytest.raises(Cancelled):
        engine.merge(recipe, tmp_path / "out", progress=StopIn("last stage"))
    weights_of = load_file(tmp_path / "math/model.safetensors")
    next(each for each in weights_of.values() if each.dim() == 2)[1, 1] += 1
    save_file(weights_of, tmp_path / "math/model.safetensors", {"format": "pt"})
    engine.merge(recipe, tmp_path / "out")
    engine.merge(recipe, tmp_path / "anew")
    assert weights(tmp_path / "out") == weights(tmp_path / "anew")


def test_what_no_later_stage_needs_goes_at_once(family: SimpleNamespace, tmp_path: Path) -> None:
    content = staged(family)
    content["models"] = [{"model": "words"}]
    content["stages"]["words"] |= {"merge_method": "ties", "base_model": family.base}
    with pytest.raises(Cancelled):
        engine.merge(engine.load(content), tmp_path / "out", progress=StopIn("last stage"))
    assert {path.name for path in (tmp_path / ".out.stages").glob("*/*") if path.is_dir()} == {"words", ".out.part"}
    engine.merge(engine.load(content), tmp_path / "out")
    assert {*json.loads((tmp_path / "out/nmerge_report.json").read_text())["facts"]["stages"]} == {"skills", "words"}


def test_documents_with_names_are_stages_in_any_order(family: SimpleNamespace, tmp_path: Path) -> None:
    """As mergekit-multi has them."""
    stages = stages_of(family)
    named = [{"name": name, **content} for name, content in stages.items() if name != "last"]
    documents = [named[1], stages["last"], named[0]]
    file = tmp_path / "recipe.yaml"
    file.write_text("---\n" + "---\n".join(yaml.safe_dump(each) for each in documents))
    assert engine.load(file).content == engine.load(staged(family)).content
    every = [*named, {"name": "all", **stages["last"]}]  # where all have names, the last is the output
    assert engine.load("---\n".join(yaml.safe_dump(each) for each in every)).content == engine.load(file).content


def test_the_estimate_is_of_the_whole_chain(family: SimpleNamespace, tmp_path: Path, capsys) -> None:
    content = staged(family)
    whole = engine.estimate(engine.load(content), tmp_path / "out")
    first = engine.estimate(load_recipe(content["stages"]["skills"]), tmp_path / "out")
    # TIES reads three checkpoints twice; task arithmetic reads the base, skills and what words is: skills, translation.
    assert whole.bytes_written == 2 * first.bytes_written and 6 * whole.bytes_read == (6 + 4) * first.bytes_read
    assert whole.tensors == first.tensors and not list(tmp_path.iterdir())
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    assert main(["merge", str(file), str(tmp_path / "out"), "--dry-run"]) == 0
    assert "stage         words: computed when read, never written" in (told := capsys.readouterr().out)
    assert f"stage         skills: written once, {first.bytes_written / 1e6:,.1f} MB, and removed" in told
    content["stages"]["words"]["models"][1]["model"] = str(tmp_path / "nowhere")
    file.write_text(yaml.safe_dump(content))
    for dry in (["--dry-run"], []):
        assert main(["merge", str(file), str(tmp_path / "out"), *dry]) == 2
        assert "nowhere" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
    file.write_text(yaml.safe_dump(staged(family)))
    assert main(["merge", str(file), str(tmp_path / "out")]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.yaml", "out"}
    assert main(["merge", str(file), str(tmp_path / "out")]) == 2 and "exists already" in capsys.readouterr().err


def test_what_a_stage_reads_tells_it_and_all_later_ones_apart(family: SimpleNamespace, tmp_path: Path) -> None:
    content = staged(family)
    before = read_staged(content, None).keys(Places(tmp_path), "cpu", {})
    run = read_staged(content, None).keys(Places(tmp_path), "cpu", {"words": {"models run in": "bfloat16"}})
    assert [before[name] == run[name] for name in ("skills", "words", None)] == [True, False, False]
    content["stages"]["words"]["parameters"] = {"weight": 2.0}
    after = read_staged(content, None).keys(Places(tmp_path), "cpu", {})
    assert [before[name] == after[name] for name in ("skills", "words", None)] == [True, False, False]


@pytest.mark.parametrize(("flags", "runs_in"), [({"avx512_bf16"}, "bfloat16"), (set(), "float32")])
def test_a_run_is_told_by_what_the_models_of_each_stage_run_in(
    flags: set[str], runs_in: str, family: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models are stored in float32; the first stage is written in bfloat16, which the last one reads."""
    monkeypatch.setattr(number_format, "cpu_flags", lambda: flags)
    math, code, _ = family.models

    def fisher(*models: str) -> dict[str, Any]:
        return {
            "merge_method": "fisher",
            "models": [{"model": model} for model in models],
            "parameters": {"corpus": "c"},
        }

    content = {"stages": {"skills": fisher(math, code) | {"dtype": "bfloat16"}}, **fisher("skills", math)}
    found = RecipeParameter(name="recipe", help="").formats(content, "cpu")
    assert found == {"stage skills: models run in": "float32", "models run in": runs_in}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stages": {}}, "expected {name: recipe}"),
        ({"stages": {"a b": {"merge_method": "ties"}}}, "names of letters"),
        ({"stages": {"a": {"merge_method": "tiess"}}}, "stage 'a': .*did you mean 'ties'"),
        ({"models": [{"model": "elsewhere"}]}, "stage '.*': expected a later one that names it"),
        ({"stages": {"words": {"merge_method": "linear", "models": [{"model": "words"}]}}}, "circle: words → words"),
        ({"engine": "mergekit"}, "mergekit-multi"),
        ({"stages": {"words": {"stages": {}, "merge_method": "linear"}}}, "expected a recipe of one stage"),
    ],
)
def test_what_is_wrong_with_stages_is_named(change: dict[str, Any], said: str) -> None:
    linear = {"merge_method": "linear", "models": [{"model": "one"}]}
    content = {"stages": {"words": linear}, "merge_method": "linear", "models": [{"model": "words"}]}
    with pytest.raises(InputError, match=said):
        engine.load(content | change)


@pytest.mark.mergekit
def test_stages_give_what_mergekit_multi_gives(family: SimpleNamespace, tmp_path: Path) -> None:
    math, code, translation = ({"model": model, "parameters": {"weight": 0.5}} for model in family.models)
    documents = [
        {"name": "skills", "merge_method": "linear", "models": [math, code], "dtype": "float32"},
        {"merge_method": "task_arithmetic", "base_model": family.base, "dtype": "float32",
         "models": [{"model": "skills", "parameters": {"weight": 0.7}}, translation]},
    ]  # fmt: skip
    file = tmp_path / "recipe.yaml"
    file.write_text("---\n".join(yaml.safe_dump(each) for each in documents))
    folders = ["-I", str(tmp_path / "between"), "--out-path", str(tmp_path / "theirs")]
    command = [sys.executable, "-m", "mergekit.scripts.multimerge", str(file), *folders]
    done = subprocess.run(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert main(["merge", str(file), str(tmp_path / "ours")]) == 0
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)


def test_documents_need_names_of_their_own() -> None:
    recipe = "merge_method: linear\nmodels: [{model: one}]\n"
    with pytest.raises(InputError, match="'name' in every document but one"):
        engine.load(f"{recipe}---\n{recipe}")
    with pytest.raises(InputError, match="another in each document"):
        engine.load(f"name: a\n{recipe}---\nname: a\n{recipe}---\n{recipe}")
