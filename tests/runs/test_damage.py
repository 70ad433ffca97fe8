"""A damaged cache: what is told of each run, and that starting it again replaces it."""

import shutil

import pytest

from nmerge_core.errors import InputError
from nmerge_core.parameters.settings import CLASSIFICATION
from nmerge_core.runs import client
from nmerge_core.runs.folder import Run, Status, clear_leftovers, create, delete, find, list_runs
from nmerge_core.runs.kinds import KINDS, Kind
from nmerge_core.runs.lock import hold_run, transitions
from nmerge_core.runs.perform import RunProgress, perform
from nmerge_core.runs.request import resolve
from tests.app.damage import DAMAGES, damaged
from tests.runs.counting_worker import count


@pytest.fixture
def request_of(cache):
    return resolve(cache, "count", {"steps": 2})


def do(run: Run) -> None:
    """Do a run here, as the worker does."""
    with hold_run(run.folder) as lock:
        assert perform(run, {"count": count}, RunProgress(run, lock)) is None


@pytest.fixture
def done(cache, request_of) -> Run:
    with transitions(cache):
        run = client.find_or_create(cache, request_of, "Counted")
    do(run)
    assert run.status().state == "done" and run.status().seconds > 0
    return run


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", ["run.json", "status.json", "results/count.txt"])
def test_a_damaged_run_is_told_of_by_its_file_and_replaced_when_it_is_started_again(cache, request_of, done, name, how):
    file = done.folder / name
    DAMAGES[how](file)
    (found,) = list_runs(cache)
    status = found.status()
    assert (found.id, status.state) == (done.id, "damaged")
    assert status.message.startswith(f"{file}: damaged, ") and status.message.endswith("; delete it, or make it anew")
    with transitions(cache):
        again = client.find_or_create(cache, request_of, "Counted")
    assert again.status().state == "queued" and not again.results.exists()
    do(again)
    assert again.status().state == "done" and [path.name for path in (cache / "runs").iterdir()] == [done.id]


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", ["lock", "log.txt"])
def test_what_says_nothing_of_the_results_does_not_damage_a_run(cache, request_of, done, name, how):
    DAMAGES[how](done.folder / name)
    assert find(cache, done.id).status().state == "done"
    done.write_status(Status("failed"))
    do(done)
    assert done.status().state == "done" and "started: Counted" in done.log()


def test_files_that_are_missing_are_damage_and_others_that_came_are_none(cache, done):
    (done.results / "notes.txt").write_text("mine")
    assert done.status().state == "done"
    (done.results / "count.txt").unlink()
    assert "found nothing there" in done.status().message
    shutil.rmtree(done.results)
    assert done.status().state == "damaged"
    delete(done)
    assert done.status().message == "This run was deleted."


def test_a_damaged_run_is_no_input_of_another(cache, done, monkeypatch):
    DAMAGES["emptied"](done.results / "count.txt")
    monkeypatch.setitem(KINDS, "read", Kind("read", "reads", (CLASSIFICATION,)))
    with pytest.raises(InputError, match=r"count.txt: damaged, .*; delete it, or make it anew"):
        resolve(cache, "read", {"neurons": done.id})


def test_a_run_that_is_going_is_neither_deleted_nor_replaced_whatever_its_files_say(cache, request_of, done):
    DAMAGES["cut"](done.folder / "run.json")
    damaged_run = find(cache, done.id)
    with hold_run(done.folder):
        with pytest.raises(InputError, match="is running: cancel it before"):
            delete(damaged_run)
        with transitions(cache), pytest.raises(InputError, match="damaged, .* has ended"):
            client.find_or_create(cache, request_of, "")
    with pytest.raises(InputError, match="run.json: damaged"):
        client.restart(damaged_run)
    delete(damaged_run)
    assert list_runs(cache) == []


def test_put_back_as_it_was_a_run_is_done(cache, done):
    for how in DAMAGES:
        with damaged(done.results / "count.txt", how):
            assert done.status().state == "damaged"
        assert done.status().state == "done"


def test_runs_of_earlier_versions_have_no_digests_and_are_read(cache, done):
    (done.folder / "run.json").write_text(f'{{"id": "{done.id}", "kind": "count", "title": "Old", "parameters": {{}}}}')
    (done.folder / "status.json").write_text('{"state": "done", "submitted": 1.0}')
    (run,) = list_runs(cache)
    assert (run.title, run.status().state) == ("Old", "done")


def test_what_killed_processes_left_is_cleared(cache, done, monkeypatch):
    (cache / "runs" / ".new-1" / "inside").mkdir(parents=True)
    (cache / "runs" / ".deleted-1").mkdir()
    monkeypatch.setattr(Run, "write_status", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="No space left on device"), transitions(cache):
        create(cache, "count", "0" * 12, "Counted", {}, {}, "")
    with transitions(cache):
        clear_leftovers(cache)
    assert [path.name for path in (cache / "runs").iterdir()] == [done.id]
