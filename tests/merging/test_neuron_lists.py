"""Lists of neurons as groups of their own in NeuronMerge, beside the categories."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from nmerge_core.errors import InputError
from nmerge_core.merging.plan.estimate import estimate
from nmerge_core.merging.recipe.prepared import NEURONS_FOLDER
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.runs.request import resolve
from tests.merging.test_parts import alone, composed, merged

LOUD = [[0, 1], [0, 10], [1, 5]]
PLAIN = {"general": "task_arithmetic", "others": "task_arithmetic", "weight": 0.5}


def test_the_neurons_of_a_list_leave_their_category_and_have_a_method_of_their_own(family, tmp_path: Path) -> None:
    ties = {"method": "ties", "density": 0.3, "weight": 0.5}
    without = merged(composed(family, **PLAIN), tmp_path / "without")
    ours = merged(composed(family, **PLAIN, lists={"loud": LOUD}, specific={"loud": ties}), tmp_path / "ours")
    expected = merged(alone(family, "ties", density=0.3, weight=0.5), tmp_path / "ties")
    for name, value in ours.items():
        listed = [neuron for layer, neuron in LOUD if f"layers.{layer}.mlp." in name]
        columns = value.T if "down_proj" in name else value
        for neuron, found in enumerate(columns if listed else ()):
            whose = expected if neuron in listed else without
            theirs = (whose[name].T if "down_proj" in name else whose[name])[neuron]
            torch.testing.assert_close(found, theirs, atol=1e-6, rtol=1e-6)
        assert listed or torch.equal(value, without[name]), name


def test_a_file_of_either_form_is_the_list_that_stands_in_the_recipe(family, tmp_path: Path) -> None:
    files = {
        "pairs.json": json.dumps(LOUD),
        "objects.json": json.dumps([{"layer": layer, "neuron": neuron, "note": "x"} for layer, neuron in LOUD]),
        "table.csv": "note,layer,neuron\n" + "".join(f"x,{layer},{neuron}\n" for layer, neuron in LOUD),
    }
    inline = merged(composed(family, **PLAIN, lists={"loud": LOUD}, specific="task_arithmetic"), tmp_path / "inline")
    for number, (name, text) in enumerate(files.items()):
        file = tmp_path / name
        file.write_text(text)
        recipe = composed(family, **PLAIN, lists={"loud": str(file)}, specific="task_arithmetic")
        read = merged(recipe, tmp_path / f"out{number}")
        assert all(torch.equal(read[name], value) for name, value in inline.items())
    again = merged(load_recipe(tmp_path / "out2/nmerge_recipe.yaml"), tmp_path / "again")
    assert all(torch.equal(again[name], value) for name, value in inline.items())


def test_the_neurons_of_a_list_can_be_those_of_a_named_model(family, tmp_path: Path) -> None:
    whose = {"loud": {"method": "own", "of": "code"}, "math": {"method": "own", "of": "code"}}
    ours = merged(composed(family, **PLAIN, lists={"loud": LOUD}, specific=whose), tmp_path / "ours")
    code = load_file(Path(family.models[1]) / "model.safetensors")
    neurons = pd.read_parquet(tmp_path / "ours" / NEURONS_FOLDER / "neurons.parquet")
    assert set(neurons["category"]) > {"loud", "math"}
    for layer, neuron, category in neurons[["layer", "neuron", "category"]].itertuples(index=False):
        for part in ("gate", "up", "down"):
            name = f"model.layers.{layer}.mlp.{part}_proj.weight"
            found, theirs = ((each[name].T if part == "down" else each[name])[neuron] for each in (ours, code))
            assert (category in whose) == torch.allclose(found, theirs, atol=1e-6), (name, neuron, category)
    again = merged(load_recipe(tmp_path / "ours" / "nmerge_recipe.yaml"), tmp_path / "again")
    assert all(torch.equal(again[name], value) for name, value in ours.items())


def test_what_stands_in_a_file_tells_one_run_from_another(family, tmp_path: Path) -> None:
    file = tmp_path / "loud.csv"
    asked = {"recipe": composed(family, **PLAIN, lists={"loud": str(file)}).content}
    file.write_text("layer,neuron\n0,1\n")
    before = resolve(tmp_path, "merge", asked).id
    file.write_text("layer,neuron\n0,2\n")
    assert resolve(tmp_path, "merge", asked).id != before


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"lists": {"loud": [[0, 12]]}}, "'loud': expected neurons of the base, found neuron 12 of layer 0"),
        ({"lists": {"loud": [[2, 0]]}}, "'loud': expected neurons of the base, found neuron 0 of layer 2"),
        (
            {"lists": {"a": [[0, 1]], "b": [[0, 1]]}},
            "'b': expected neurons of no other list, found neuron 1 of layer 0",
        ),
        ({"lists": {"math": [[0, 1]]}}, r"'parameters.lists' .*expected names other than .*found \['math'\]"),
        ({"lists": {"loud": [[0, 1]]}, "specific": "own"}, "expected drop or a method for the list 'loud'"),
        (
            {"lists": {"loud": [[0, 1]]}, "specific": {"loud": {"method": "own", "of": "law"}}},
            "expected own of one of math, code, translation; found law",
        ),
        ({"specific": {"math": {"method": "own", "from": "code"}}}, "own has no parameter 'from'; known keys: of"),
        (
            {"lists": {"loud": [[0, 1]]}, "specific": {"quiet": "drop"}},
            "categories among math, code, translation, loud",
        ),
        (
            {"lists": {"loud": [[0]]}},
            r"'parameters.lists': expected .*\[layer, neuron\], whole numbers from 0; found \[0\]",
        ),
        ({"lists": {"loud": []}}, "expected at least one"),
        ({"lists": {"": [[0, 1]]}}, "'parameters.lists': expected {name: "),
        ({"lists": {"loud": "none.csv"}}, "none.csv: expected a file, found none"),
        ({"lists": [[0, 1]]}, "'parameters.lists': expected {name: "),
    ],
)
def test_what_is_no_list_of_neurons_is_said_before_all_work(family, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        estimate(composed(family, **PLAIN, **parameters), Path("out"))


@pytest.mark.parametrize(
    "text", ["neuron\n1\n", "layer,neuron\n1,x\n", "layer,neuron\n", "layer,neuron\n1\n", "\xff\x00"]
)
def test_a_file_that_holds_something_else_is_named(family, tmp_path: Path, text: str) -> None:
    for name in ("loud.csv", "loud.json"):
        (tmp_path / name).write_text(text, encoding="latin-1")
        with pytest.raises(InputError, match=f"{name}: expected a CSV with the columns layer and neuron, or JSON"):
            estimate(composed(family, **PLAIN, lists={"loud": str(tmp_path / name)}), Path("out"))
