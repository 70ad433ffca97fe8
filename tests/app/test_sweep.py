"""The page Sweep: what it searches, what it shows of a sweep, and where its trials lead."""

from pathlib import Path

import pandas as pd
import pytest

from nmerge_core.errors import Cancelled
from nmerge_core.runs.folder import Run, find
from nmerge_core.runs.here import do
from nmerge_core.search.reading import load_sweep


def only_sweep(root: Path) -> Run:
    [folder] = (root / "runs").glob("sweep-*")
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
    assert "4 trials." in [each.value for each in app.caption]
    app.button(key="sweep_run").click().run()
    assert not app.exception
    run = only_sweep(tiny_cache)
    plan = load_sweep(run.parameters["sweep"])
    assert [axis.values for axis in plan.axes] == [(0.0, 1.0), (1.0, 2.5)] and plan.loss and plan.limit == 2
    with pytest.raises(Cancelled):
        do("sweep", run.parameters, stop_in_the_third)
    assert run.status().message == "Stopped. Start it again to continue."
    app.run()
    assert any(each.value.startswith("Best of 2 trials") for each in app.markdown)
    begun: list[str] = []
    do("sweep", run.parameters, lambda stage, *_: begun.append(stage[:7]))
    assert "Trial 3" in begun and "Trial 2" not in begun
    app = open_page("pages/10_Sweep.py", run=run.id)
    trials = pd.read_csv(run.results / "trials.csv")
    best = trials.loc[trials["objective"].idxmax()]
    [said] = [each.value for each in app.markdown if each.value.startswith("Best of 4 trials")]
    assert f"number {int(best['trial'])} with λ1 **{best['parameters.lambda_1']}**" in said.replace("\\", "")
    app.button(key="sweep_open").click().run()
    assert app.session_state["merge_method"] == "neuromerging"
    assert app.session_state["merge_neuromerging_lambda_2"] == best["parameters.lambda_2"]


def test_values_are_typed_as_lists_or_ranges(open_page, no_worker) -> None:
    app = open_page("pages/10_Sweep.py")
    app.segmented_control(key="sweep_strategy").set_value("tpe").run()
    app.text_input[1].set_value("0.5 … 4 log").run()
    assert not app.exception and not app.error
    app.segmented_control(key="sweep_strategy").set_value("grid").run()
    assert "expected lists of values for strategy: grid" in app.error[0].value
    app.text_input[1].set_value("[").run()
    assert not app.exception and app.error
