import json

import pytest

from nmerge_core.cli import main
from nmerge_core.errors import InputError
from nmerge_core.merging.recipe import catalogue
from nmerge_core.merging.recipe.registry import methods, steps


def test_every_method_says_all_there_is_to_say(capsys: pytest.CaptureFixture) -> None:
    for name, method in {**methods(), **steps()}.items():
        assert main(["methods", name]) == 0
        printed = capsys.readouterr().out
        assert method.title in printed and method.paper in printed and method.computes in printed
        for parameter in method.parameters:
            assert f"  {parameter.name}: {parameter.expected}" in printed and parameter.help in printed
        assert main(["methods", name, "--json"]) == 0
        described = json.loads(capsys.readouterr().out)
        assert [each["name"] for each in described["parameters"]] == [each.name for each in method.parameters]
    assert main(["methods"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [*methods(), *steps()]


def test_cost_and_data_follow_from_the_method() -> None:
    known = methods()
    assert catalogue.cost(known["linear"]).startswith("reads every model once; holds a few rows")
    assert catalogue.cost(known["ties"]).startswith("reads every model 2 times")
    assert "runs the models on texts" in catalogue.cost(known["sublin"])
    assert "one whole model in memory" in catalogue.cost(known["pcb_es"])
    assert catalogue.data(known["fisher"]) == "statistics, corpus" and catalogue.data(known["ties"]) == "nothing"


def test_an_unknown_method_names_the_nearest() -> None:
    with pytest.raises(
        InputError, match=r"^method: found 'tiess'; did you mean 'ties'\? \(`nmerge methods` lists all\)$"
    ):
        catalogue.chosen("tiess")
    with pytest.raises(
        InputError, match=r"^method: found 'neuromerge'; did you mean 'neuronmerge' or 'neuromerging'\?"
    ):
        catalogue.chosen("neuromerge")
    with pytest.raises(InputError, match="^method: expected one of adamerging, .*; found 'magic'$"):
        catalogue.chosen("magic")
