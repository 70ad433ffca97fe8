from collections.abc import Callable
from pathlib import Path

from streamlit.testing.v1 import AppTest

from nmerge_core.runs.folder import STOPPED, Run
from tests.app.conftest import OpenPage, at

LeaveRun = Callable[..., Run]


def opened() -> AppTest:
    app = at("pages/9_Runs.py").run()
    assert not app.exception, app.exception
    return app


def test_nothing_yet(empty_cache: Path) -> None:
    assert "Nothing was started yet" in opened().info[0].value


def test_every_run_is_listed_with_its_state(leave_run: LeaveRun) -> None:
    leave_run("first one", "done", started=100.0)
    leave_run("second one", "failed", message="corpus/math.jsonl, line 17: not JSON")
    app = opened()
    labels = [box.label for box in app.expander]
    assert any(":green-badge[done] **first one**" in label for label in labels)
    assert any(":red-badge[failed] **second one**" in label for label in labels)
    assert any("line 17: not JSON" in error.value for error in app.error)


def test_a_run_whose_worker_died_says_so_and_offers_to_start_again(leave_run: LeaveRun) -> None:
    run = leave_run("killed", "running", pid=2**22 + 1)  # above the kernel's highest process id
    app = opened()
    assert any(STOPPED in warning.value for warning in app.warning)
    assert app.button(key=f"run_restart_{run.id}").label == "Start again"


def test_states_filter_the_list(leave_run: LeaveRun) -> None:
    leave_run("good", "done")
    leave_run("bad", "failed")
    app = opened()
    app.button_group(key="runs_states").set_value(["failed"]).run()
    labels = [box.label for box in app.expander]
    assert any("bad" in label for label in labels)
    assert not any("good" in label for label in labels)


def test_delete_removes_the_folder(leave_run: LeaveRun) -> None:
    run = leave_run("bad", "failed")
    app = opened()
    app.button(key=f"run_delete_{run.id}").click().run()
    assert not run.folder.exists()
    assert "Nothing was started yet" in app.info[0].value


def test_a_linked_run_is_open_and_shows_results_and_parameters(open_page: OpenPage, tiny_cache: Path) -> None:
    run = next((tiny_cache / "runs").glob("classify-*")).name
    app = open_page("pages/9_Runs.py", run=run)
    assert any("neurons.parquet" in caption.value for caption in app.caption)
    assert any('"top_k": 10' in code.value for code in app.code)
