import json
import math
import pickle
from pathlib import Path

import pytest
import torch

from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.recipe import registry
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.registry import method, methods
from nmerge_core.merging.recipe.shared_parameters import LAMBDA, WEIGHT
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.inputs import File
from nmerge_core.parameters.values import Number, Numbers


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_METHODS", dict(methods()))


def register(name, parameters=(), prepare=None):
    @method(name, title="T", paper="P", summary="S", parameters=parameters, prepare=prepare)
    def change(block, values, prepared):
        """Return nothing of it."""
        return torch.zeros_like(block.base)

    return change


def test_two_methods_of_one_name_are_refused_with_both_places(own_registry):
    here = f"{Path(__file__)}:"
    with pytest.raises(ValueError, match="two merge methods are called 'ties'") as error:
        register("ties")
    assert "methods/ties.py:" in str(error.value) and here in str(error.value)


def test_two_parameters_of_one_name_are_refused(own_registry):
    with pytest.raises(ValueError, match="'twice' .*: two of its parameters are called 'lambda'"):
        register("twice", [LAMBDA, WEIGHT, LAMBDA])


def test_a_helper_that_needs_another_parameter_says_which_method_lacks_it(family, tmp_path, own_registry):
    register("lacking", [LAMBDA], prepare=lambda context, values: Prepared(context.calibration(values)))
    recipe = {"merge_method": "lacking", "base_model": family.base, "models": [{"model": family.models[0]}]}
    with pytest.raises(LookupError, match=r"method 'lacking' has no parameter 'calibration' \(it has lambda, seed\)"):
        merge(load_recipe(recipe), tmp_path / "out")


def test_what_cannot_travel_is_refused_where_it_is_made(family, tmp_path, own_registry):
    register("stuck", prepare=lambda context, values: Prepared(lambda: 0))
    recipe = {"merge_method": "stuck", "base_model": family.base, "models": [{"model": family.models[0]}]}
    with pytest.raises(TypeError, match=r"method 'stuck' \(.*test_registry.py:\d+\): what `prepare` puts into"):
        merge(load_recipe(recipe), tmp_path / "out")


def test_a_report_is_json_whatever_was_found(family, tmp_path, own_registry):
    found = {"end": math.inf, "each": {"math": [1.5, -math.inf, math.nan]}}
    register("endless", prepare=lambda context, values: Prepared(report=found))
    recipe = {"merge_method": "endless", "base_model": family.base, "models": [{"model": family.models[0]}]}
    merge(load_recipe(recipe), tmp_path / "out")

    def refuse(constant):
        raise AssertionError(constant)  # Infinity, -Infinity and NaN are Python's own

    read = json.loads((tmp_path / "out/nmerge_report.json").read_text(), parse_constant=refuse)
    assert (read["facts"]["end"], read["facts"]["each"]) == (None, {"math": [1.5, None, None]})


def test_values_travel_with_their_method():
    values = pickle.loads(pickle.dumps(Values("ties", {"lambda": 1.0}, {"weight": (1.0,)})))
    assert values.shared["lambda"] == 1.0
    with pytest.raises(LookupError, match="method 'ties' has no parameter 'density'"):
        values.each["density"]


def test_the_digest_tells_values_and_not_identities():
    part = [1.0, 2.0]
    assert Prepared([part, part]).digest == Prepared([[1.0, 2.0], [1.0, 2.0]]).digest
    assert Prepared(part).digest != Prepared([1.0, 2.5]).digest
    ones, others = torch.ones(3), torch.ones(3)  # at two places of memory, as in two processes
    assert Prepared({"at": ones}).digest == Prepared({"at": others}).digest
    different = [torch.zeros(3), torch.ones(3, 1), torch.ones(3, dtype=torch.float64), ones.numpy(), ones.tolist()]
    assert len({Prepared({"at": each}).digest for each in (ones, *different)}) == 6


def test_only_what_varies_is_a_gradient_over_the_layers(own_registry):
    bands = Numbers(name="bands", default=(0.5,), help="Bands.", low=0, high=1)
    register("banded", [bands, Number(name="scale", default=1.0, help="Scale.", varies=True)])
    recipe = {
        "merge_method": "banded",
        "base_model": "b",
        "models": [{"model": "m"}],
        "parameters": {"bands": [0.1, 0.5, 0.9], "scale": [0.0, 1.0]},
    }
    values = load_recipe(recipe).values()
    found = [values.at("w", position).shared for position in (0.0, 0.5)]
    assert [each["scale"] for each in found] == [0.0, 0.5]
    assert [each["bands"] for each in found] == [(0.1, 0.5, 0.9)] * 2


@pytest.mark.parametrize("name", methods())
def test_every_method_describes_itself(name):
    found = methods()[name]
    assert found.summary.endswith(".") and found.computes and found.paper
    for parameter in found.parameters:
        assert parameter.help.endswith(".") and parameter.expected
        if parameter.default is not None:
            assert parameter.check(parameter.default, parameter.name) == parameter.default


def test_a_file_that_was_edited_makes_another_run(family, tmp_path, own_registry):
    from nmerge_core.runs.request import resolve

    register("scaled", [File(name="scale_file", help="Scales.")])
    scales = tmp_path / "scales.txt"
    scales.write_text("1")
    recipe = {
        "merge_method": "scaled",
        "base_model": family.base,
        "models": [{"model": family.models[0]}],
        "parameters": {"scale_file": str(scales)},
    }
    before = resolve(tmp_path, "merge", {"recipe": recipe})
    assert resolve(tmp_path, "merge", {"recipe": recipe}) == before
    scales.write_text("2")
    after = resolve(tmp_path, "merge", {"recipe": recipe})
    assert after.id != before.id and {key for key in before.inputs if before.inputs[key] != after.inputs[key]} == {
        str(scales)
    }


def test_a_new_version_of_a_method_makes_another_run(family, tmp_path, own_registry, monkeypatch):
    from dataclasses import replace

    from nmerge_core.runs.request import resolve

    recipe = {"merge_method": "ties", "base_model": family.base, "models": [{"model": family.models[0]}]}
    before = resolve(tmp_path, "merge", {"recipe": recipe}).id
    monkeypatch.setattr("nmerge_core.version.__version__", "9.9")
    assert resolve(tmp_path, "merge", {"recipe": recipe}).id == before  # a release orphans no result
    monkeypatch.setitem(registry._METHODS, "ties", replace(methods()["ties"], version=2))
    assert resolve(tmp_path, "merge", {"recipe": recipe}).id != before
