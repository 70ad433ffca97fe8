"""NeuronMerge put together from the registry: any delta method, with parameters of its own, for any part."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from nmerge_core.errors import InputError
from nmerge_core.face.results import Merged
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.plan.estimate import estimate
from nmerge_core.merging.recipe.method_part import delta_methods
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.recipe.registry import methods
from nmerge_core.parameters.values import Solved
from nmerge_core.runs.request import resolve
from tests.merging.merged import needed

CATEGORIES = ("math", "code", "translation")


def fewer(family: Any, method: str) -> SimpleNamespace:
    """The family with as many models as a method merges."""
    return SimpleNamespace(**{**vars(family), "models": family.models[: methods()[method].most]})


def composed(family: Any, **parameters: object) -> Recipe:
    models = [
        {"model": model, "parameters": {"category": name}}
        for name, model in zip(CATEGORIES, family.models, strict=False)
    ]
    parameters = {"neurons": family.neurons} | parameters
    return load_recipe(
        {"merge_method": "neuronmerge", "base_model": family.base, "models": models, "parameters": parameters}
    )


def alone(family: Any, method: str, **parameters: object) -> Recipe:
    models = [{"model": model} for model in family.models[: methods()[method].most]]
    return load_recipe({"merge_method": method, "base_model": family.base, "models": models, "parameters": parameters})


def merged(recipe: Recipe, out: Path) -> dict[str, torch.Tensor]:
    merge(recipe, out)
    return load_file(out / "model.safetensors")


def own_parameters(family: Any, method: str) -> dict[str, Any]:
    """Parameters that are no defaults where there is a number to choose, and what the method needs."""
    return {**needed(family, method), **{"weight": 0.5, "density": 0.5, "mask_ratio": 0.5}}


@pytest.mark.parametrize("method", [name for name in delta_methods() if name != "sublin"])
def test_a_method_for_every_part_is_the_method(family, tmp_path: Path, method: str) -> None:
    known = {parameter.name for parameter in delta_methods()[method].parameters}
    own = {name: value for name, value in own_parameters(family, method).items() if name in known}
    part = {"method": method, **own}
    ours = merged(composed(fewer(family, method), general=part, specific=part, others=part), tmp_path / "ours")
    theirs = merged(alone(family, method, **own), tmp_path / "theirs")
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


@pytest.mark.parametrize(
    "method", [name for name, each in methods().items() if name not in delta_methods() or each.most is not None]
)
def test_what_cannot_merge_one_category_is_refused_in_words(family, tmp_path: Path, method: str) -> None:
    """Averages of weights, what is composed itself, and methods of one or two models, of three fine-tunes."""
    told = (
        "expected one of drop, own" if method not in delta_methods() else "expected exactly .* beside the base; found 3"
    )
    for parameters in ({"specific": {"code": {"method": method}}}, {"specific": {"code": method}}):
        with pytest.raises(InputError, match=told):
            estimate(composed(family, general="dare", others="dare", **parameters), tmp_path / "out")


@pytest.mark.parametrize("method", [name for name in delta_methods()])
def test_the_resolved_recipe_of_parts_gives_the_same_bytes(family, tmp_path: Path, method: str) -> None:
    known = delta_methods()[method].parameters
    own = needed(family, method)
    beside = {p.name: own[p.name] for p in known if p.name in own and (not isinstance(p, Solved) or method != "sublin")}
    shared = {name: value for name, value in own.items() if name not in beside}
    general = {"method": method, **beside}
    recipe = composed(fewer(family, method), general=general, specific={"math": "own"}, others="ties", **shared)
    ours = merged(recipe, tmp_path / "ours")
    again = merged(load_recipe(tmp_path / "ours/nmerge_recipe.yaml"), tmp_path / "again")
    assert all(torch.equal(again[name], value) for name, value in ours.items())


def test_each_category_has_a_method_of_its_own(family, tmp_path: Path) -> None:
    ties, pcb = {"method": "ties", "density": 0.3}, {"method": "pcb", "mask_ratio": 0.4}
    recipe = composed(
        family, general="task_arithmetic", specific={"math": "own", "code": ties}, others=pcb, weight=0.5, density=0.9
    )
    ours = merged(recipe, tmp_path / "ours")
    parts = {
        "general": merged(alone(family, "task_arithmetic", weight=0.5), tmp_path / "general"),
        # The model's weight is said for all parts, and stands beside no method; the density does.
        "code": merged(alone(family, "ties", density=0.3, weight=0.5), tmp_path / "code"),
        "others": merged(alone(family, "pcb", mask_ratio=0.4, weight=0.5), tmp_path / "others"),
        "math": family.tunes["math"],
        "translation": family.weights,  # left out: dropped
    }
    groups = neurons_of(family)
    for name, value in ours.items():
        if "mlp" not in name:
            torch.testing.assert_close(value, parts["others"][name])
            continue
        of_layer = groups[int(name.split(".")[2])]
        for neuron, category in enumerate(of_layer):
            place = (slice(None), neuron) if "down_proj" in name else (neuron,)
            torch.testing.assert_close(value[place], parts[category][name][place], atol=1e-6, rtol=1e-6)


def neurons_of(family: Any) -> dict[int, list[str]]:
    import pandas as pd

    frame = pd.read_parquet(Path(family.neurons) / "neurons.parquet").sort_values(["layer", "neuron"])
    return {int(layer): list(rows["category"]) for layer, rows in frame.groupby("layer")}


def test_what_two_methods_solve_stands_beside_each(family, tmp_path: Path) -> None:
    two = [{"method": "neuromerging", "mask_ratio": ratio} for ratio in (0.2, 0.6)]
    merge(composed(family, general=two[0], others=two[1]), tmp_path / "out")
    parameters = yaml.safe_load((tmp_path / "out/nmerge_recipe.yaml").read_text())["parameters"]
    solved = [parameters[part]["lambda_2"] for part in ("general", "others")]
    assert solved[0] != solved[1] and all(value > 1 for value in solved)
    assert parameters["lambda_2"] == "auto"
    report = json.loads((tmp_path / "out/nmerge_report.json").read_text())
    found = {f"{name} of neuromerging (mask_ratio {ratio})" for name in ("lambda_2", "sigma") for ratio in (0.2, 0.6)}
    assert {result["name"] for result in report["results"]} == {"groups", *found}


def test_what_one_method_solves_for_all_stands_where_it_did(family, tmp_path: Path) -> None:
    merge(composed(family, general="neuromerging", others="neuromerging", mask_ratio=0.3), tmp_path / "out")
    parameters = yaml.safe_load((tmp_path / "out/nmerge_recipe.yaml").read_text())["parameters"]
    assert parameters["general"] == parameters["others"] == "neuromerging" and parameters["lambda_2"] > 1


def test_what_two_parts_find_under_one_name_is_told_apart(family, tmp_path: Path) -> None:
    parts = {name: {"method": "ties", "density": density} for name, density in (("math", 0.3), ("code", 0.6))}
    merged(composed(family, general="dare", specific=parts, others="dare"), tmp_path / "out")
    report = json.loads((tmp_path / "out/nmerge_report.json").read_text())
    titles = {result["name"]: result["title"] for result in report["results"]}
    names = [f"thresholds of ties (density {density})" for density in (0.3, 0.6)]
    assert [titles[name] for name in names] == [f"Least |τ| kept, of {name[14:]}" for name in names]
    few, many = (report["facts"][name] for name in names)
    assert all(few[model] > many[model] for model in few)  # the more is kept, the lower the threshold
    resolved = yaml.safe_load((tmp_path / "out/nmerge_recipe.yaml").read_text())["parameters"]
    own = {"density": 0.3, "normalize": True, "trim": "model"}  # as given, by default, and as found
    assert resolved["specific"]["math"] == {"method": "ties", **own}


def test_filters_of_a_part_fall_back_on_what_is_said_for_all_parts(family, tmp_path: Path) -> None:
    """Of a layer's tensors one has its own density, the others that for all parts: as thresholds and in the merge."""
    filters = [{"filter": "q_proj", "value": 0.3}]
    part = composed(family, general="dare", others={"method": "ties", "density": filters}, density=0.7)
    ours = merged(part, tmp_path / "ours")
    theirs = merged(alone(family, "ties", density=[*filters, {"value": 0.7}]), tmp_path / "theirs")
    compared = [name for name in ours if "self_attn" in name]
    assert len(compared) > 2 and all(torch.equal(ours[name], theirs[name]) for name in compared)


def test_two_groupings_of_one_recipe_are_two_runs(family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The neurons' folder counts from the resolved recipe's own, wherever that is read."""
    weights = {}
    for grouping in ("functional", "random"):
        recipe = composed(family, general="ties", others="ties", grouping=grouping)
        weights[grouping] = merged(recipe, tmp_path / grouping)["model.layers.0.mlp.up_proj.weight"]
    assert not torch.equal(*weights.values())
    files = {grouping: tmp_path / grouping / "nmerge_recipe.yaml" for grouping in weights}
    assert len({file.read_text() for file in files.values()}) == 1
    requests = {name: resolve(tmp_path, "merge", {"recipe": file}) for name, file in files.items()}
    assert requests["functional"].id != requests["random"].id
    monkeypatch.chdir(tmp_path / "random")
    assert resolve(tmp_path, "merge", {"recipe": "nmerge_recipe.yaml"}).id == requests["random"].id
    monkeypatch.chdir(tmp_path)
    again = merged(load_recipe(Merged(tmp_path / "random").recipe), tmp_path / "again")
    assert torch.equal(again["model.layers.0.mlp.up_proj.weight"], weights["random"])
    with pytest.raises(InputError, match="key 'neurons': nmerge_neurons: expected a classification"):
        estimate(load_recipe(files["random"].read_text()), tmp_path / "out")


def test_the_estimate_counts_the_passes_of_every_part(family, tmp_path: Path) -> None:
    once = estimate(composed(family, general="dare", others="task_arithmetic"), tmp_path / "out").bytes_read
    part = {"math": {"method": "pcb"}}
    assert (
        estimate(composed(family, general="dare", specific=part, others="dare"), tmp_path / "out").bytes_read
        == 3 * once
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"general": {"method": "tyes"}}, "general.method': expected one of .*, ties, "),
        ({"general": "linear"}, "general': expected one of"),  # averages weights, and merges no change of a base
        ({"general": "neuronmerge"}, "general': expected one of"),
        ({"others": {"method": "ties", True: 0.3}}, "others': ties has no parameter 'True'; known keys: "),
        (
            {"others": {"method": "ties", "densty": 0.3}},
            "others': ties has no parameter 'densty'; did you mean 'density'?",
        ),
        ({"others": {"method": "ties", "density": 3}}, r"others.density': expected a number in \(0, 1\], found 3"),
        ({"specific": {"math": {"a": {"method": "ties"}}}}, "specific.math': expected one of drop, own"),
        ({"specific": {"math": "own", "code": None}}, "specific.code': expected one of drop, own, .*, found nothing"),
        ({"specific": {"math": {"method": "drop", "density": 0.3}}}, "specific.math': drop has no parameter 'density'"),
        ({"others": {"math": "ties"}}, "others': expected one of"),  # not by category
    ],
)
def test_wrong_parts_are_named(family, parameters: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        composed(family, **parameters)
