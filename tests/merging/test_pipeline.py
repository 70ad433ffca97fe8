"""What a merge leaves on disk: when it ends well, when its input is wrong, and when it is stopped midway."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.errors import Cancelled, InputError
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.plan.estimate import estimate
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.recipe import Recipe
from tests.merging import checkpoints
from tests.tiny import write_corpus


def recipe_of(family, models: list[str] | None = None, **more: object) -> Recipe:
    entries = [{"model": model} for model in (models or family.models)]
    return load_recipe({"merge_method": "task_arithmetic", "base_model": family.base, "models": entries, **more})


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_output_is_a_complete_checkpoint(family, tmp_path: Path) -> None:
    (Path(family.base) / "tokenizer.json").write_text("{}")
    (Path(family.base) / "generation_config.json").write_text("{}")
    try:
        report = merge(recipe_of(family, dtype="bfloat16", parameters={"weight": 0.5}), tmp_path / "out")
    finally:
        (Path(family.base) / "tokenizer.json").unlink()
        (Path(family.base) / "generation_config.json").unlink()
    assert left_in(tmp_path) == ["out"]
    assert left_in(tmp_path / "out") == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "nmerge_recipe.yaml",
        "nmerge_report.json",
        "tokenizer.json",
    ]
    (tmp_path / "out/generation_config.json").unlink()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.bfloat16
    name = "model.layers.1.mlp.down_proj.weight"
    expected = family.weights[name] + 0.5 * sum(tune[name] - family.weights[name] for tune in family.tunes.values())
    torch.testing.assert_close(model.state_dict()[name].float(), expected, atol=0.02, rtol=0.01)
    assert report.tensors == len(family.weights)
    written = json.loads((tmp_path / "out/nmerge_report.json").read_text())
    assert [source["label"] for source in written["models"]] == ["math", "code", "translation"]


def test_the_card_says_the_licences_of_the_models(family, tmp_path: Path) -> None:
    sources = {"base": family.base, "tuned": family.models[0]}
    base, tuned = (shutil.copytree(source, tmp_path / name) for name, source in sources.items())
    recipe = {"merge_method": "task_arithmetic", "base_model": str(base), "models": [{"model": str(tuned)}]}

    def card(**licences: str) -> str:
        for name, licence in licences.items():
            (tmp_path / name / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
        merge(load_recipe(recipe), tmp_path / "out")
        text = (tmp_path / "out" / "README.md").read_text()
        shutil.rmtree(tmp_path / "out")
        return text

    assert "Licences of the models" not in card()
    assert "license: mit\n" in card(base="mit", tuned="mit")
    other = card(tuned="apache-2.0")
    assert "license:" not in other and f"- `{base}`: mit\n- `{tuned}`: apache-2.0\n" in other


def test_several_shards_load_as_one(family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nmerge_core.checkpoints.writer.SHARD_BYTES", 2000)
    merge(recipe_of(family), tmp_path / "out")
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2 and set(index["weight_map"]) == set(family.weights)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    name = "model.norm.weight"
    expected = family.weights[name] + sum(tune[name] - family.weights[name] for tune in family.tunes.values())
    torch.testing.assert_close(model.state_dict()[name], expected)


def test_an_existing_folder_is_refused(family, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="out: exists already"):
        merge(recipe_of(family), tmp_path / "out")
    assert left_in(tmp_path / "out") == []


def broken(family, tmp_path: Path, kind: str) -> tuple[str, str]:
    """Make a fine-tune that is wrong in one way; return it and what the error says."""
    weights = dict(family.tunes["math"])
    folder = tmp_path / kind
    last = "model.layers.1.mlp.down_proj.weight"
    if kind == "shape":
        weights[last] = torch.zeros(8, 13)
        return checkpoints.write(folder, weights), rf"{last}: expected \[8, 12\], found \[8, 13\]"
    if kind == "missing":
        del weights[last]
        return checkpoints.write(folder, weights), f"tensors of the base are missing: {last}"
    if kind == "extra":
        return checkpoints.write(folder, {**weights, "other": torch.zeros(1)}), "the base does not have: other"
    if kind == "nan":
        weights[last] = weights[last].clone()
        weights[last][7, 3] = float("nan")
        return checkpoints.write(folder, weights), f"tensor {last}: rows 0 to 7 hold NaN"
    if kind == "integers":
        weights[last] = torch.zeros(8, 12, dtype=torch.int8)
        return checkpoints.write(folder, weights), f"{last} is I8"
    if kind == "config":
        return checkpoints.write(folder, weights, num_attention_heads=4), "key 'num_attention_heads': expected 2"
    checkpoints.write(folder, weights)
    file = folder / "model.safetensors"
    if kind == "truncated":
        file.write_bytes(file.read_bytes()[:-5])
        return str(folder), r"model.safetensors: truncated: expected [\d,]+ bytes by its header, found [\d,]+"
    if kind == "header":
        file.write_bytes(b"\x10\0\0\0\0\0\0\0not json")
        return str(folder), "not a complete safetensors file"
    if kind == "pickled":
        file.unlink()
        torch.save({"weights": weights, "trainer": Path()}, folder / "pytorch_model.bin")
        return str(folder), r"expected a pickle of tensors alone, found .*; it is read with weights_only and never run"
    shutil.rmtree(folder)
    return str(folder), "no such folder"


@pytest.mark.parametrize(
    "kind",
    ["shape", "missing", "extra", "nan", "integers", "config", "truncated", "header", "pickled", "folder"],
)
def test_a_wrong_model_is_named_and_nothing_is_left(family, tmp_path: Path, kind: str) -> None:
    model, message = broken(family, tmp_path, kind)
    (tmp_path / "target").mkdir()
    with pytest.raises(InputError, match=message):
        merge(recipe_of(family, [*family.models[:1], model]), tmp_path / "target/out")
    assert left_in(tmp_path / "target") == []


def test_every_mismatch_is_listed_at_once(family, tmp_path: Path) -> None:
    shape, _ = broken(family, tmp_path, "shape")
    extra, _ = broken(family, tmp_path, "extra")
    with pytest.raises(InputError, match=r"shape: shapes differ(.|\n)*extra: tensors the base does not have"):
        merge(recipe_of(family, [shape, extra]), tmp_path / "out")


def test_every_model_that_cannot_be_opened_is_listed_too(family, tmp_path: Path) -> None:
    kinds = ["truncated", "pickled", "folder", "header", "shape"]  # those that cannot be opened come first
    models = [broken(family, tmp_path, kind) for kind in kinds]
    (tmp_path / "target").mkdir()
    with pytest.raises(InputError) as caught:
        merge(recipe_of(family, [family.models[0], *(model for model, _ in models)]), tmp_path / "target/out")
    lines = str(caught.value).splitlines()
    assert lines[0] == "these models cannot be merged:" and len(lines) == 1 + len(kinds)
    for line, (_, message) in zip(lines[1:], models, strict=True):
        assert re.search(message, line)
    assert left_in(tmp_path / "target") == []


def test_code_of_a_checkpoint_is_never_run(family, tmp_path: Path) -> None:
    own: dict[str, Any] = {"auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}}
    weights = {name.replace("mlp", "feed"): value for name, value in family.tunes["math"].items()}
    odd = checkpoints.write(tmp_path / "odd", weights, model_type="own", **own)
    (tmp_path / "odd/own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(InputError, match=r"odd: .*code of its own \(config.json, key 'auto_map'\), which is never run"):
        _ = open_checkpoint(odd).architecture.layers
    merge(load_recipe({"merge_method": "linear", "models": [{"model": odd}]}), tmp_path / "unknown")
    assert "auto_map" not in json.loads((tmp_path / "unknown/config.json").read_text())
    assert not (tmp_path / "unknown/own.py").exists()
    # Where the tensors tell what they are, the code is not needed.
    known = checkpoints.write(tmp_path / "known", family.tunes["math"], **own)
    shutil.copy(tmp_path / "odd/own.py", tmp_path / "known")
    merge(recipe_of(family, [known]), tmp_path / "out")
    assert not (tmp_path / "ran").exists()


class StopAt:
    """A progress that stops the merge at its `count`-th report of written bytes."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self, stage: str, done: float, total: float, unit: str = "") -> None:
        if stage == "Merging":
            self.left -= 1
            if self.left == 0:
                raise Cancelled


@pytest.mark.parametrize("count", [1, 5, 20])
def test_a_stopped_merge_goes_on_where_it_was(family, tmp_path: Path, count: int) -> None:
    merge(recipe_of(family), tmp_path / "whole")
    with pytest.raises(Cancelled):
        merge(recipe_of(family), tmp_path / "out", progress=StopAt(count))
    assert left_in(tmp_path) == [".out.part", "whole"]
    finished = (tmp_path / ".out.part/journal").read_text().splitlines()[1:]
    seen: list[float] = []
    merge(recipe_of(family), tmp_path / "out", progress=lambda stage, done, total, unit="": seen.append(done))
    assert (seen[0] > 0) == bool(finished)
    assert left_in(tmp_path) == ["out", "whole"]
    for file in ("model.safetensors", "config.json", "nmerge_recipe.yaml", "README.md"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_another_recipe_does_not_take_over_what_is_left(family, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        merge(recipe_of(family), tmp_path / "out", progress=StopAt(20))
    other = recipe_of(family, parameters={"weight": 0.1})
    merge(other, tmp_path / "out")
    merge(other, tmp_path / "clean")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "clean/model.safetensors").read_bytes()


def test_another_version_does_not_take_over_what_is_left(
    family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions may round or draw otherwise: an output is of one alone."""
    with monkeypatch.context() as older:
        older.setattr("nmerge_core.merging.recipe.recipe.ENGINE_VERSION", 0)
        with pytest.raises(Cancelled):
            merge(recipe_of(family), tmp_path / "out", progress=StopAt(20))
    seen: list[float] = []
    merge(recipe_of(family), tmp_path / "out", progress=lambda stage, done, total, unit="": seen.append(done))
    assert seen[0] == 0


def test_a_tensor_without_entries_is_kept(family, tmp_path: Path) -> None:
    for method in ("linear", "ties", "neuromerging"):
        weights = [family.weights, *family.tunes.values()]
        base, *models = (
            checkpoints.write(tmp_path / f"{method}-{index}", {**own, "empty.weight": torch.zeros(3, 0)})
            for index, own in enumerate(weights)
        )
        recipe = {"merge_method": method, "base_model": base, "models": checkpoints.entries(method, models)}
        merge(load_recipe(recipe), tmp_path / method)
        assert load_file(tmp_path / method / "model.safetensors")["empty.weight"].shape == (3, 0)


def test_a_tied_head_that_is_stored_all_the_same_is_left_out(family, tmp_path: Path) -> None:
    tune = family.tunes["math"]
    model = checkpoints.write(tmp_path / "tied", {**tune, "lm_head.weight": tune["model.embed_tokens.weight"].clone()})
    merge(recipe_of(family, [model]), tmp_path / "out")
    merge(recipe_of(family, family.models[:1]), tmp_path / "plain")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "plain/model.safetensors").read_bytes()


def test_neuronmerge_says_what_it_needs(family, tmp_path: Path) -> None:
    recipe = {"merge_method": "neuronmerge", "base_model": family.base, "models": [{"model": family.models[0]}]}
    with pytest.raises(
        InputError, match=r"'parameters.neurons' \(neuronmerge\): expected the folder of a classification"
    ):
        merge(load_recipe(recipe), tmp_path / "out")
    with pytest.raises(InputError, match=r"nowhere/neurons.parquet: missing"):
        merge(load_recipe({**recipe, "parameters": {"neurons": "nowhere"}}), tmp_path / "out")
    with pytest.raises(InputError, match=r"damaged/neurons.parquet: damaged, found something else than was written"):
        (tmp_path / "damaged").mkdir()
        (tmp_path / "damaged/neurons.parquet").write_bytes(b"PAR1")
        merge(load_recipe({**recipe, "parameters": {"neurons": str(tmp_path / "damaged")}}), tmp_path / "out")
    shutil.rmtree(tmp_path / "damaged")
    with pytest.raises(InputError, match=r"'parameters.calibration' \(neuronmerge\): expected the folder of a corpus"):
        merge(load_recipe({**recipe, "parameters": {"neurons": family.neurons}}), tmp_path / "out")
    assert left_in(tmp_path) == []


def test_estimate_counts_bytes_from_headers(family, tmp_path: Path) -> None:
    found = estimate(recipe_of(family, dtype="bfloat16"), tmp_path / "out")
    entries = sum(value.numel() for value in family.weights.values())
    assert (found.parameters, found.bytes_read) == (entries, 4 * 4 * entries)  # four float32 models, one pass
    merge(recipe_of(family, dtype="bfloat16"), tmp_path / "out")
    assert found.bytes_written == (tmp_path / "out/model.safetensors").stat().st_size
    ties = load_recipe({"merge_method": "ties", "base_model": family.base, "models": [{"model": family.models[0]}]})
    assert estimate(ties, tmp_path / "ties").bytes_read == 2 * 2 * 4 * entries  # two passes over two models


def neuronmerge(family, neurons: str, **more: object) -> Recipe:
    models = [{"model": model} for model in family.models[:2]]
    parameters = {"neurons": neurons, "general": "task_arithmetic", "others": "task_arithmetic", **more}
    recipe = {"merge_method": "neuronmerge", "base_model": family.base, "models": models, "parameters": parameters}
    return load_recipe(recipe)


def test_other_neuron_groups_do_not_take_over_what_is_left(family, tmp_path: Path) -> None:
    other = checkpoints.categories(tmp_path / "other", ["math", "general", "code"])
    with pytest.raises(Cancelled):
        merge(neuronmerge(family, family.neurons), tmp_path / "out", progress=StopAt(24))
    merge(neuronmerge(family, other), tmp_path / "out")
    merge(neuronmerge(family, other), tmp_path / "clean")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "clean/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"coefficients": {"0": {"attention": [1, 1], "mlp": [1, 1]}}, "others": "sublin"}, "coefficients"),
        (
            {"specific": {"maths": "own"}},
            r"'parameters.specific' .*expected categories among math, code; found \['maths'\]",
        ),
    ],
)
def test_neuronmerge_checks_what_it_is_given(family, tmp_path: Path, parameters: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        merge(neuronmerge(family, family.neurons, **parameters), tmp_path / "out")
    assert left_in(tmp_path) == []


def test_a_task_that_no_neuron_belongs_to_is_an_error(family, tmp_path: Path) -> None:
    other = checkpoints.categories(tmp_path / "other", ["general", "math"])
    with pytest.raises(
        InputError, match=r"category' \(neuronmerge\): expected categories of neurons \(general, math\)"
    ):
        merge(neuronmerge(family, other), tmp_path / "out")


def test_weights_that_cancel_cannot_be_normalised(family, tmp_path: Path) -> None:
    parameters = {"weight": 0.0, "normalize": True}
    with pytest.raises(InputError, match="expected weights that do not sum to 0"):
        merge(recipe_of(family, parameters=parameters), tmp_path / "out")
    assert left_in(tmp_path) == []


def test_estimate_follows_the_methods_inside_neuronmerge(family, tmp_path: Path) -> None:
    plain = estimate(neuronmerge(family, family.neurons), tmp_path / "out")
    ties = estimate(neuronmerge(family, family.neurons, others="ties"), tmp_path / "out")
    assert (plain.solving, ties.bytes_read) == (False, 2 * plain.bytes_read)
    texts = {"general": ["One."], "math": ["2 + 2 = 4"], "code": ["def f(): pass"]}
    corpus = write_corpus(tmp_path / "corpus", texts)
    solved = neuronmerge(family, family.neurons, general="sublin", calibration=corpus)
    assert estimate(solved, tmp_path / "out").solving
    with pytest.raises(InputError, match="key 'calibration': nowhere: no such corpus"):
        estimate(neuronmerge(family, family.neurons, calibration="nowhere"), tmp_path / "out")


def test_a_model_that_is_named_twice_is_told(family, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.symlink_to(family.models[0])
    told = estimate(recipe_of(family, [family.models[0], family.models[1], str(again)]), tmp_path / "out").warnings
    twice = f"{again}: the same model as {family.models[0]}, which the recipe has already; it is merged twice"
    assert [each for each in told if "the same model" in each] == [twice]
