"""NeuronMerge put together from the registry: any delta method, with parameters of its own, for any part."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from nmerge_core.errors import InputError
from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.plan.estimate import estimate
from nmerge_core.merging.recipe.method_part import delta_methods
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.parameters import Solved
from tests.merging.merged import needed

CATEGORIES = ("math", "code", "translation")


def composed(family: Any, **parameters: object) -> Recipe:
    models = [
        {"model": model, "parameters": {"category": name}}
        for name, model in zip(CATEGORIES, family.models, strict=True)
    ]
    parameters = {"neurons": family.neurons} | parameters
    return load_recipe(
        {"merge_method": "neuronmerge", "base_model": family.base, "models": models, "parameters": parameters}
    )


def alone(family: Any, method: str, **parameters: object) -> Recipe:
    models = [{"model": model} for model in family.models]
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
    ours = merged(composed(family, general=part, specific=part, others=part), tmp_path / "ours")
    theirs = merged(alone(family, method, **own), tmp_path / "theirs")
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


@pytest.mark.parametrize("method", [name for name in delta_methods()])
def test_the_resolved_recipe_of_parts_gives_the_same_bytes(family, tmp_path: Path, method: str) -> None:
    known = delta_methods()[method].parameters
    own = needed(family, method)
    beside = {p.name: own[p.name] for p in known if p.name in own and (not isinstance(p, Solved) or method != "sublin")}
    shared = {name: value for name, value in own.items() if name not in beside}
    recipe = composed(family, general={"method": method, **beside}, specific={"math": "own"}, others="ties", **shared)
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
        (
            {"others": {"method": "ties", "densty": 0.3}},
            "others': ties has no parameter 'densty'; did you mean 'density'?",
        ),
        ({"others": {"method": "ties", "density": 3}}, r"others.density': expected a number in \(0, 1\], found 3"),
        ({"specific": {"math": {"method": "drop", "density": 0.3}}}, "specific.math': expected a method with its"),
        ({"others": {"math": "ties"}}, "others': expected one of"),  # not by category
    ],
)
def test_wrong_parts_are_named(family, parameters: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        composed(family, **parameters)
