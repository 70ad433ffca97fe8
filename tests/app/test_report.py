"""The page Report: what it starts, what it shows of a report, finished or stopped, and where its files are."""

from pathlib import Path

import pytest

from nmerge_core.errors import Cancelled
from nmerge_core.runs.folder import Run, find
from nmerge_core.runs.here import do
from tests.app.damage import damaged
from tests.app.scored import click


def only_report(root: Path) -> Run:
    [folder] = (root / "runs").glob("report-*")
    run = find(root, folder.name)
    assert run is not None
    return run


def stop_before_scores(stage: str, done: float, total: float, unit: str = "") -> None:
    if "scores of" in unit:
        raise Cancelled


def test_a_stopped_report_is_shown_as_far_as_it_is(open_page, no_worker, tiny_cache: Path) -> None:
    app = open_page("pages/11_Report.py")
    assert any("goes on where it was" in each.value for each in app.caption)
    assert any(each.value.startswith("Time: quick some seconds, full ") for each in app.caption)
    app.button(key="report_run").click().run()
    assert not app.exception
    run = only_report(tiny_cache)
    assert run.title == "Report of tiny" and run.parameters["budget"] == "quick"
    with pytest.raises(Cancelled):
        do("report", run.parameters, stop_before_scores)
    app = open_page("pages/11_Report.py", run=run.id)
    said = " ".join(each.value for each in app.markdown)
    assert "Most neurons keep their category through fine-tuning" in said
    assert "Figure 3. Categories in the first layer" in said and "the report was stopped before" in said
    assert app.button(key=f"run_restart_{run.id}")  # it goes on
    assert not app.exception and not app.error
    assert sum(each.value == "A click on a bar leads to its neurons in *Explorer*." for each in app.caption) == 2
    model, layer, _, category, _ = click(app, "report_neuronmerge-figure-3", ["math", 0, "code"])
    assert (model, layer, category) == ("math", 0, "code")
    app = open_page("pages/11_Report.py", run=run.id)
    app.segmented_control(key="report_paper").set_value("NeuroMerging").run()
    said = " ".join(each.value for each in app.markdown)
    assert "Table 12. Parts of a change, task by task" in said and "Figure 8" not in said
    [paper] = [each.value for each in app.dataframe if "CMMLU" in each.value]
    assert paper["mean"].iloc[-1] == 36.0
    for name, how in (("verdicts.json", "other JSON"), ("tables/claims.csv", "emptied"), ("verdicts.json", "a folder")):
        with damaged(run.part / name, how):
            app = open_page("pages/11_Report.py", run=run.id)
            assert f"{name}: damaged" in app.error[0].value
    with damaged(run.folder / "run.json", "bytes"):
        app = open_page("pages/11_Report.py", run=run.id)
        assert "run.json: damaged" in app.warning[0].value and app.button(key="report_run")


def test_a_link_to_a_run_that_is_gone_says_so(open_page, no_worker) -> None:
    app = open_page("pages/11_Report.py", run="report-0123")
    assert app.warning[0].value.startswith("The address asks for the run **report-0123**. There is none here")
