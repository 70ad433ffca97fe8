"""The page Sweep: what it searches, what it shows of a sweep, and where its trials lead."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from nmerge_core.comparison.paired import Interval
from nmerge_core.errors import Cancelled
from nmerge_core.runs.folder import Run, find
from nmerge_core.runs.here import do
from nmerge_core.search.reading import load_sweep
from pages.shared.sweep.found import WALKED, Found, Lead, lead_of
from pages.shared.sweep.trials import told
from tests.app.damage import damaged


def newest_sweep(root: Path) -> Run:
    folder = max((root / "runs").glob("sweep-*"), key=lambda folder: folder.stat().st_ctime_ns)
    run = find(root, folder.name)
    assert run is not None
    return run


def stop_in_the_third(stage: str, done: float, total: float, unit: str = "") -> None:
    if stage.startswith("Trial 3"):
        raise Cancelled


def test_a_preset_is_searched_and_a_trial_opens_in_the_merge_controls(open_page, no_worker, tiny_cache: Path) -> None:
    app = open_page("pages/10_Sweep.py")
    assert app.selectbox(key="sweep_method").value == "neuromerging"
    assert [box.value for box in app.text_input] == ["0.0, 0.5, 1.0", "1.0, 1.5, 2.0"]
    app.text_input[0].set_value("0.0, 1.0")
    app.text_input[1].set_value("1.0, 2.5")
    app.number_input(key="sweep_limit").set_value(2)
    app.run()
    assert "4 trials; how long it takes is told once it has begun." in [each.value for each in app.caption]
    app.button(key="sweep_run").click().run()
    assert not app.exception
    run = newest_sweep(tiny_cache)
    plan = load_sweep(run.parameters["sweep"])
    assert [axis.values for axis in plan.axes] == [(0.0, 1.0), (1.0, 2.5)] and plan.loss and plan.limit == 2
    with pytest.raises(Cancelled):
        do("sweep", run.parameters, stop_in_the_third)
    assert run.status().message == "Stopped. Start it again to continue."
    app.run()
    assert any(each.value.startswith("Best of 2 trials") for each in app.markdown)
    for file, how in ((run.part / "trials.csv", "other JSON"), (run.part / "recipes/1/losses.csv", "emptied")):
        with damaged(file, how):
            app = open_page("pages/10_Sweep.py", run=run.id)
            assert f"{file.name}: damaged" in app.error[0].value
    with damaged(run.folder / "run.json", "cut"):
        app = open_page("pages/10_Sweep.py", run=run.id)
        assert "run.json: damaged" in app.warning[0].value and app.button(key="sweep_run")
    begun: list[str] = []
    do("sweep", run.parameters, lambda stage, *_: begun.append(stage[:7]))
    assert "Trial 3" in begun and "Trial 2" not in begun
    app = open_page("pages/10_Sweep.py", run=run.id)
    trials = pd.read_csv(run.results / "trials.csv")
    best = trials.loc[trials["objective"].idxmax()]
    [said] = [each.value for each in app.markdown if each.value.startswith("Best of 4 trials")]
    assert f"number {int(best['trial'])} with λ1 **{best['parameters.lambda_1']}**" in said.replace("\\", "")
    assert app.selectbox(key=f"sweep_against_{int(best['trial'])}").value == trials["objective"].idxmin() + 1
    other = 1 if int(best["trial"]) != 1 else 2
    app.session_state["sweep_trial"] = other  # as a click on a point does
    app.run()
    assert f"What trial {other} answered" in [each.value for each in app.subheader]
    assert app.selectbox(key=f"sweep_against_{other}").value == int(best["trial"])
    assert any("is worse on" in each.value and "against **trial" in each.value for each in app.markdown)
    app.session_state["sweep_trial"] = int(best["trial"])
    app.run()
    app.button(key="sweep_open").click().run()
    assert not app.exception
    assert app.session_state["merge_method"] == "neuromerging"
    assert app.session_state["merge_neuromerging_lambda_2"] == best["parameters.lambda_2"]


def test_one_comes_back_to_the_sweep_that_one_left(open_page, no_worker, tiny_cache: Path) -> None:
    app = open_page("pages/10_Sweep.py")
    app.text_input[1].set_value("0.5, 1.5, 2.5")
    app.number_input(key="sweep_limit").set_value(3)
    app.run()
    app.button(key="sweep_run").click().run()
    run = newest_sweep(tiny_cache)
    app.switch_page("pages/4_Similarity.py").run()
    app.switch_page("pages/10_Sweep.py").run()
    assert not app.exception and app.text_input[1].value == "0.5, 1.5, 2.5"
    assert app.number_input(key="sweep_limit").value == 3
    assert app.button(key=f"run_cancel_{run.id}")  # of the run that these settings lead to


def test_values_are_typed_as_lists_or_ranges(open_page, no_worker) -> None:
    app = open_page("pages/10_Sweep.py")
    app.pills(key="sweep_strategy").set_value("tpe").run()
    app.text_input[1].set_value("0.5 … 4 log").run()
    assert not app.exception and not app.error
    app.pills(key="sweep_strategy").set_value("grid").run()
    assert "expected lists of values for strategy: grid" in app.error[0].value
    app.text_input[1].set_value("[").run()
    assert not app.exception and app.error


def test_two_objectives_and_choices_that_are_no_numbers(open_page, no_worker, tiny_cache: Path) -> None:
    app = open_page("pages/10_Sweep.py")
    app.selectbox(key="sweep_method").set_value("neuronmerge").run()
    [title] = [each for each in app.selectbox(key="sweep_preset_neuronmerge").options if "Tables 3 and 12" in each]
    app.selectbox(key="sweep_preset_neuronmerge").set_value(title.partition(" (")[0]).run()
    assert not app.exception and not app.error
    app.pills(key="sweep_strategy").set_value("nsga2").run()
    assert not app.exception and not app.error
    first = app.multiselect(key="sweep_first").value
    app.button(key="sweep_run").click().run()
    plan = load_sweep(newest_sweep(tiny_cache).parameters["sweep"])
    assert [axis.values for axis in plan.axes] == [("own", "merge", "drop")] * len(plan.axes)
    assert len(plan.objectives) == 2 and list(plan.objectives[0] or ()) == first and not plan.prune


def test_the_factors_of_tasks_own_neurons_are_searched(open_page, no_worker, tiny_cache: Path) -> None:
    app = open_page("pages/10_Sweep.py", sweep_method="NeuronMerge")
    preset = "Own × foreign factors, 12 points"
    app.selectbox(key="sweep_preset_neuronmerge").set_value(preset).run()
    assert not app.exception and any(each.value.startswith("12 trials") for each in app.caption)
    assert [(box.label, box.value) for box in app.text_input] == [
        ("own factor", "1.0, 1.5, 2.0, 3.0"),
        ("foreign factor", "0.6, 0.8, 1.0"),
    ]


def test_parameters_of_steps_are_searched(open_page, no_worker, tiny_cache: Path) -> None:
    """Steps are those chosen on Merge until others are; what is searched of one goes with it."""
    app = open_page("pages/10_Sweep.py", sweep_method="Task arithmetic")
    assert app.multiselect(key="sweep_then").value == []
    app.multiselect(key="sweep_then").set_value(["svc", "aim"]).run()
    [parameters] = [each for each in app.multiselect if each.key.startswith("sweep_parameters_task_arithmetic")]
    assert parameters.options[-2:] == ["omega of step 2", "samples of step 2"]
    first = parameters.value
    parameters.set_value([*first, "then[0].alpha", "then[1].omega"]).run()
    assert not app.exception and not app.error
    [omega] = [each for each in app.text_input if each.label == "omega of step 2"]
    omega.set_value("0.4, 1.0").run()
    app.button(key="sweep_run").click().run()
    plan = load_sweep(newest_sweep(tiny_cache).parameters["sweep"])
    assert [axis.key for axis in plan.axes] == [*first, "then[0].alpha", "then[1].omega"]
    assert plan.axes[-1].values == (0.4, 1.0)
    then = plan.recipe_at(plan.first).content["then"]
    assert [each["method"] for each in then] == ["svc", "aim"]
    assert then[1]["omega"] == 0.4 and Path(then[1]["corpus"]).is_dir()  # the family's
    app.multiselect(key="sweep_then").set_value(["svc"]).run()
    assert not app.exception and not app.error
    [parameters] = [each for each in app.multiselect if each.key.startswith("sweep_parameters_task_arithmetic")]
    assert parameters.value == [*first, "then[0].alpha"]


def test_steps_go_from_merge_to_sweep_and_back(tiny_cache: Path, open_page, no_worker) -> None:
    """With their values, after whatever method; one that Merge has not has its defaults."""
    app = open_page("pages/7_Merge.py", merge_method="TIES-Merging")
    app.multiselect(key="merge_then").set_value(["svc"]).run()
    app.slider(key="merge_svc_alpha").set_value(0.5).run()
    app.switch_page("pages/10_Sweep.py").run()
    assert app.multiselect(key="sweep_then").value == ["svc"] and not app.exception
    assert app.selectbox(key="sweep_method").value == "neuromerging"
    app.multiselect(key="sweep_then").set_value(["aim", "svc"]).run()
    app.button(key="sweep_run").click().run()
    plan = load_sweep(newest_sweep(tiny_cache).parameters["sweep"])
    aim, svc = plan.recipe_at(plan.first).content["then"]
    assert (svc["method"], svc["alpha"]) == ("svc", 0.5) and (aim["method"], aim["omega"]) == ("aim", 0.4)
    app.switch_page("pages/7_Merge.py").run()
    assert app.multiselect(key="merge_then").value == ["svc"] and app.slider(key="merge_svc_alpha").value == 0.5


def test_a_sweep_goes_on_from_the_recipe_on_merge(tiny_cache: Path, open_page, no_worker) -> None:
    """What is searched for all models goes before what Merge has beside each; all else stays as it is there."""
    app = open_page("pages/7_Merge.py", merge_method="TIES-Merging")
    app.selectbox(key="merge_ties_trim").set_value("tensor")
    app.slider(key="merge_ties_density_math").set_value(0.3)
    app.slider(key="merge_ties_weight_code").set_value(0.5).run()
    app.switch_page("pages/10_Sweep.py").run()
    assert not any("as on Merge" in each.value for each in app.caption)  # of another method
    app.selectbox(key="sweep_method").set_value("ties").run()
    [told] = [each.value.replace("\\", "") for each in app.caption if "as on Merge" in each.value]
    assert "TIES-Merging, Weight of code 0.5, Density of math 0.3, Trim tensor." in told
    app.selectbox(key="sweep_preset_ties").set_value("Density from 0.1 to 0.9").run()
    app.button(key="sweep_run").click().run()
    assert not app.exception and not app.error
    plan = load_sweep(newest_sweep(tiny_cache).parameters["sweep"])
    recipe = plan.recipe_at({"parameters.density": 0.7})
    assert recipe.parameters["trim"] == "tensor" and recipe.values().each["density"] == (0.7, 0.7)
    assert recipe.values().each["weight"] == (1.0, 0.5)


def test_how_many_are_within_the_error_of_the_best(tmp_path: Path) -> None:
    """Right answers to four problems: 3, then 2 of the same, then none."""
    answers = {1: [0, 0, 0, 0], 2: [1, 1, 1, 0], 3: [1, 1, 0, 0]}
    for number, right in answers.items():
        folder = tmp_path / "recipes" / str(number)
        folder.mkdir(parents=True)
        sample = {"model": "merge", "task": "sums", "metric": "acc"}
        lines = [json.dumps(sample | {"id": place, "value": value}) for place, value in enumerate(right)]
        (folder / "samples.jsonl").write_text("\n".join(lines))
        score = sample | {"value": sum(right) / 4, "low": 0, "high": 1, "stderr": 0.1, "samples": 4}
        pd.DataFrame([score | {"higher_is_better": True}]).to_csv(folder / "scores.csv", index=False)
    trials = pd.DataFrame({"trial": [2, 3, 1], "objective": [0.75, 0.5, 0.0]})
    plan: Any = SimpleNamespace(loss=None, objectives=(None,))
    run: Any = None
    lead = lead_of(Found(plan, run, trials, tmp_path))
    # Differences 0, 0, 1, 0: mean 1/4 and standard error 1/4, within the error; then 1, 1, 1, 0: 3/4 and 1/4, beyond.
    assert lead is not None and (lead.next, lead.difference, lead.within) == (3, 0.25, 1)
    assert lead_of(Found(plan, run, trials.iloc[:1], tmp_path)) is None


def test_the_best_is_told_with_how_sure_that_is() -> None:
    def end(low: float, within: int) -> str:
        said = told(Lead(7, 0.02, Interval(low, 0.07), within))
        led = f"It is ahead of the next, number 7, by 0.0200 (95 % interval {low:+.3g} to +0.07, problem by problem): "
        assert said.startswith(led)
        return said.removeprefix(led)

    assert end(0.01, 0).startswith("more than the error, though the best of many")
    assert end(-0.03, 1) == ":orange[within the error]. Which of them is best, these problems do not tell."
    assert end(-0.03, 6).startswith(":orange[within the error], as are 5 after it. ")
    assert ", as are at least 19 after it. " in end(-0.03, WALKED)
