import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from nmerge_core.files.in_use import InUse
from nmerge_core.runs.folder import STOPPED, Run, Status
from nmerge_core.runs.lock import hold_run, hold_worker_lock, note_run
from pages.shared.frame.runs import progress_sentence
from tests.app.conftest import OpenPage, at

LeaveRun = Callable[..., Run]


def opened(**query: str) -> AppTest:
    app = at("pages/9_Runs.py")
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception, app.exception
    return app


def said(app: AppTest) -> str:
    return "\n".join(text.value for text in app.markdown)


def test_nothing_yet(empty_cache: Path) -> None:
    assert "Nothing was started yet" in said(opened())


def test_every_run_is_a_row_and_those_without_a_result_are_folded_away(leave_run: LeaveRun) -> None:
    leave_run("first one", "done", started=time.time() - 65, seconds=65.0)
    failed = leave_run("second one", "failed", message="corpus/math.jsonl, line 17: not JSON")
    app = opened()
    table = app.dataframe[0].value
    assert [*zip(table["state"], table["run"], table["kind"], table["took"], strict=True)] == [
        ("done", "first one", "cosine", "1 min 05 s")
    ]
    assert table["disk"][0] > 0 and any("1 run, " in caption.value for caption in app.caption)
    app.toggle(key="runs_without").set_value(True).run()
    assert set(app.dataframe[0].value["run"]) == {"first one", "second one"}
    assert any("line 17: not JSON" in error.value for error in opened(run=failed.id).error)


def test_a_run_whose_worker_died_says_so_and_offers_to_start_again(leave_run: LeaveRun) -> None:
    run = leave_run("killed", "running", pid=2**22 + 1)  # above the kernel's highest process id
    app = opened(run=run.id)
    assert any(STOPPED in warning.value for warning in app.warning)
    assert app.button(key=f"run_restart_{run.id}").label == "Start again"


def test_of_slow_work_it_is_told_how_long_each_takes(leave_run: LeaveRun) -> None:
    run = leave_run("slow", "running")
    for rate, told in ((0.04, "25 s each"), (12.5, "12.5 measurements/s")):
        going = Status("running", stage="knocking out", done=18, total=29, unit="measurements", rate=rate, eta=60.0)
        said = progress_sentence(run, going)
        assert said == f"slow: knocking out · 18 of 29 measurements · {told} · 1 min 00 s left"


def test_of_several_workers_the_one_that_does_a_run_is_named(
    leave_run: LeaveRun, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = leave_run("going", "running")
    with hold_run(run.folder) as _, hold_worker_lock(empty_cache, 2) as worker:
        note_run(worker, run.id)
        assert [bar.proto.text for bar in opened().get("progress")] == ["going: starting"]
        monkeypatch.setenv("NMERGE_WORKERS", "2")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-7")
        assert [bar.proto.text for bar in opened().get("progress")] == ["going: starting · worker 2 of 2 on GPU GPU-7"]


def test_a_state_is_told_once_and_no_time_that_is_none(leave_run: LeaveRun) -> None:
    run = leave_run("stopped", "cancelled", message="Cancelled.", started=time.time())
    app = opened(run=run.id)
    assert [warning.value for warning in app.warning] == ["**stopped** · cancelled."]
    assert "0 s" not in said(app)


def test_states_kinds_and_families_filter_the_table(leave_run: LeaveRun) -> None:
    leave_run("good", "done")
    leave_run("bad", "failed")
    app = opened(runs_state="failed")
    assert list(app.dataframe[0].value["run"]) == ["bad"]
    app.multiselect(key="runs_state").set_value([]).run()
    app.multiselect(key="runs_kind").set_value(["cosine"]).run()
    assert list(app.dataframe[0].value["run"]) == ["good"]


def test_delete_removes_the_folder(leave_run: LeaveRun) -> None:
    run = leave_run("bad", "failed")
    app = opened(run=run.id)
    app.button(key=f"run_delete_{run.id}").click().run()
    assert not run.folder.exists()
    assert "Nothing was started yet" in said(app)


def test_a_linked_run_is_open_and_shows_results_and_parameters(open_page: OpenPage, tiny_cache: Path) -> None:
    run = next((tiny_cache / "runs").glob("classify-*")).name
    app = open_page("pages/9_Runs.py", run=run)
    assert any("neurons.parquet" in caption.value for caption in app.caption)
    assert any('"top_k": 10' in code.value for code in app.code)


def picked(app: AppTest, rows: list[int], press: str = "", table: int = 0) -> None:
    """Pick rows of a table, that of the runs if no other is meant, and press a button while they are picked."""
    states = app._tree.get_widget_states()
    chosen = json.dumps({"selection": {"rows": rows, "columns": [], "cells": []}})
    states.widgets.add(id=app.dataframe[table].proto.id, string_value=chosen)
    if press:
        states.widgets.add(id=app.button(key=press).proto.id, trigger_value=True)
    app._run(states)


def test_of_many_that_are_deleted_one_that_cannot_be_stays_and_is_named(leave_run: LeaveRun, empty_cache: Path) -> None:
    runs = [leave_run(title, "done") for title in ("oldest", "held", "newest")]
    app = opened()
    picked(app, [0, 1, 2])
    lock = hold_run(runs[1].folder)  # as what goes on with it in another tab does
    assert lock is not None
    with lock:
        picked(app, [0, 1, 2], press="runs_delete")
    assert [error.value for error in app.error] == ["**held** stays. held is running: cancel it before deleting it"]
    assert list(app.dataframe[0].value["run"]) == ["held"]
    app.run()
    assert not app.error


def test_what_merges_measured_on_the_way_is_shown_and_removed_but_for_what_is_used(empty_cache: Path) -> None:
    folders = [empty_cache / "statistics" / name for name in (".gram-c.part", "fisher-b", "gram-a")]
    for when, folder in enumerate(folders):
        folder.mkdir(parents=True)
        meta = {"label": "math", "categories": ["math"]}
        (folder / "meta.json").write_text(json.dumps(meta))
        os.utime(folder, (when, when))
    app = opened()
    assert any("3 measurements" in each.label for each in app.expander)
    table = app.dataframe[0].value
    assert list(table["what"]) == ["Gram matrices", "Fisher information", "Gram matrices"]
    assert list(table["state"]) == ["whole", "whole", "unfinished"] and set(table["of"]) == {"math on math"}
    picked(app, [0, 1, 2])
    used = InUse(folders[1])
    picked(app, [0, 1, 2], press="measured_remove")
    assert not folders[0].exists() and not folders[2].exists() and folders[1].exists()
    (error,) = app.error
    assert error.value.startswith("**Fisher information** stays.") and "a merge that is going goes by it" in error.value
    assert "measured_remove" not in {button.key for button in app.button}  # of a row that was there before
    del used
    picked(app, [0])
    picked(app, [0], press="measured_remove")
    assert not folders[1].exists() and not app.dataframe and not app.error
