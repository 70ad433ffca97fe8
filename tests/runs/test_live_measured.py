"""A merge in memory of methods that measure first: a run measures, and the merge follows what it found."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nmerge_core.merging.pipeline import merge
from nmerge_core.merging.plan.kept import NotMeasured
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.runs import here
from nmerge_core.runs.held import LIVE
from nmerge_core.runs.short_questions import QUESTIONS
from tests.tiny_family import make_family


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    made = make_family(tmp_path_factory.mktemp("family"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NMERGE_CACHE", str(made.root / "cache"))
        made.neurons = str(here.do("classify", {"model": made.base, "corpus": made.corpus, "top_k": 5}).results)
        yield made
    LIVE.release()


def content(family, method: str, **parameters: Any) -> dict[str, Any]:
    chosen = [{"model": family.math}, {"model": family.code}]
    return {"merge_method": method, "base_model": family.base, "models": chosen, "parameters": parameters}


def neuronmerge(family, **parameters: Any) -> dict[str, Any]:
    measured = {"neurons": family.neurons, "calibration": family.corpus, "samples": 3}
    return content(family, "neuronmerge", **(measured | parameters))


def ask(recipe: dict[str, Any]) -> dict[str, Any]:
    return QUESTIONS["live"](recipe=recipe, prompt="2 + 2", more=2)


def measured(needs: list[dict[str, Any]]) -> list[str]:
    """Do the runs that an answer needs; return their kinds."""
    assert all(0 < need["seconds"] < 60 for need in needs)
    return [here.do(need["kind"], need["parameters"]).kind for need in needs]


def assert_as_merged(recipe: dict[str, Any], out: Path) -> None:
    """Compare with a merge that measures by itself, and takes nothing of any run."""
    merge(load_recipe(recipe), out)
    assert LIVE._live is not None
    for name, weights in load_file(out / "model.safetensors").items():
        assert torch.equal(LIVE._live[1].weights(name), weights), name


def test_coefficients_are_solved_by_a_run_and_those_of_other_groups_stand_in_meanwhile(family, tmp_path: Path) -> None:
    first, second = neuronmerge(family), neuronmerge(family, margin=3)
    lacking = ask(first)
    assert lacking.keys() == {"needs"} and measured(lacking["needs"]) == ["coefficients"]
    answered = ask(first)
    assert answered["tensors"] == answered["of"] and "needs" not in answered
    assert_as_merged(first, tmp_path / "first")
    regrouped = ask(second)
    assert regrouped["answer"] and regrouped["provisional"] == "coefficients measured with the default margin"
    with pytest.raises(NotMeasured, match="goes by what is not measured yet"):  # of what is remembered by its recipe
        QUESTIONS["changes"](recipe=second, base=family.base)
    assert measured(regrouped["needs"]) == ["coefficients"]
    assert "needs" not in ask(second)
    assert_as_merged(second, tmp_path / "second")
    third = neuronmerge(family, margin=3, lists={"loud": [[0, 1], [1, 2]]}, specific={"loud": "merge"})
    assert measured(ask(third)["needs"]) == ["coefficients"]  # nothing stands in for a group that none had
    assert "needs" not in ask(third)
    assert_as_merged(third, tmp_path / "third")


def test_coefficients_that_are_solved_together_are_of_all_their_groups(family, tmp_path: Path) -> None:
    every = neuronmerge(family, specific="merge", together=True)
    measured(ask(every)["needs"])
    assert "needs" not in ask(every)
    assert_as_merged(every, tmp_path / "every")
    fewer = ask(neuronmerge(family, specific={"math": "merge"}, together=True))
    assert [need["kind"] for need in fewer["needs"]] == ["coefficients"]  # each group's hang on what the others are


def test_only_what_decides_coefficients_has_them_solved_anew(family, tmp_path: Path) -> None:
    whole = content(family, "sublin", calibration=family.corpus, samples=3)
    assert "needs" not in ask(whole)  # as they are among those of groups, which were solved above
    assert_as_merged(whole, tmp_path / "whole")
    alone = content(family, "sublin", calibration=family.corpus, samples=2)
    measured(ask(alone)["needs"])
    assert "needs" not in ask(alone)
    assert "needs" not in ask(neuronmerge(family, samples=2, general="task_arithmetic"))  # they are of no group
    assert "needs" not in ask(neuronmerge(family, samples=2, general="ties", density=0.3, margin=4))
    asked = ask(neuronmerge(family, samples=2, margin=3))
    assert asked["provisional"].endswith("samples 3") and len(asked["needs"]) == 1
    asked = ask(content(family, "sublin", calibration=family.corpus, samples=4))
    assert asked["provisional"] == "coefficients measured with samples 2" and len(asked["needs"]) == 1


@pytest.mark.parametrize("method", ["fisher", "regmean"])
def test_statistics_are_collected_by_a_run_for_each_model(family, tmp_path: Path, method: str) -> None:
    recipe = content(family, method, corpus=family.corpus, samples=3)
    lacking = ask(recipe)
    assert lacking.keys() == {"needs"} and measured(lacking["needs"]) == ["statistics"] * 2
    assert "needs" not in ask(recipe)
    assert_as_merged(recipe, tmp_path / "out")
    more = ask({**recipe, "parameters": {**recipe["parameters"], "samples": 4}})
    assert more["provisional"] == "statistics measured with samples 3" and len(more["needs"]) == 2


def test_a_classification_on_the_way_is_a_run_whose_votes_are_counted_again(family, tmp_path: Path) -> None:
    on_the_way = {"neurons": None, "corpus": family.corpus, "general": "task_arithmetic", "others": "ties"}
    recipe = neuronmerge(family, **on_the_way)
    assert measured(ask(recipe)["needs"]) == ["classify"]
    for number, voting in enumerate(({}, {"top_k": 3, "margin": 2})):
        recipe = neuronmerge(family, **on_the_way, **voting)
        assert "needs" not in ask(recipe)
        assert_as_merged(recipe, tmp_path / str(number))


def test_a_search_is_the_merge_s_own_run(family, tmp_path: Path) -> None:
    recipe = content(family, "lorahub", calibration=family.corpus, samples=2, evaluations=2)
    lacking = ask(recipe)
    assert lacking.keys() == {"needs"} and measured(lacking["needs"]) == ["merge"]
    assert "needs" not in ask(recipe)
    assert_as_merged(recipe, tmp_path / "out")
