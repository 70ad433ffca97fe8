import json
import os
import signal
import stat
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nmerge_core.errors import InputError
from nmerge_core.files.kept_files import Damaged
from nmerge_core.places import PACKAGE
from nmerge_core.runs import client, here, questions, queue
from nmerge_core.runs.folder import STOPPED, create, delete, find, list_runs
from nmerge_core.runs.kinds import KINDS
from nmerge_core.runs.lock import stop_marker, transitions, worker_pid
from nmerge_core.runs.operations import OPERATIONS
from nmerge_core.version import __version__
from tests.runs.counting_worker import COUNTED

LONG = {"until": "/nowhere"}  # a run that goes until it is cancelled or killed


def ended(run):
    return not run.status().active


def test_a_run_is_done_with_results_log_and_progress(cache, wait):
    run = client.submit("count", {"steps": 4})
    wait(lambda: ended(run))
    status = run.status()
    assert (status.state, status.stage, status.done, status.total, status.unit) == ("done", "counting", 4, 4, "steps")
    assert status.pid == worker_pid(cache) and status.peak_memory > 1 << 20
    assert (run.results / "count.txt").read_text() == "4"
    assert not run.part.exists()
    assert "started: count" in run.log() and "done" in run.log()
    assert list_runs(cache) == [run] and find(cache, run.id) == run


def test_an_equal_request_finds_the_run_and_another_makes_another(cache, wait):
    run = client.submit("count", {})
    wait(lambda: ended(run))
    before = run.status()
    assert client.submit("count", {"steps": 3, "seconds": 0.0}) == run  # the defaults, written out
    assert run.status() == before
    assert client.lookup("count", {"steps": 3}) == run
    assert client.lookup("count", {"steps": 2}) is None
    assert client.submit("count", {"steps": 2}).id != run.id


def test_runs_are_done_in_order_of_submission(cache, wait):
    names = ["c", "a", "b", "d"]
    runs = [client.submit("count", {"name": name}) for name in names]
    wait(lambda: all(map(ended, runs)))
    starts = [run.status().started for run in runs]
    assert starts == sorted(starts)
    assert [run.parameters["name"] for run in list_runs(cache)] == names[::-1]


def test_cancel_of_a_going_and_of_a_waiting_run(cache, wait):
    going = client.submit("count", LONG)
    waiting = client.submit("count", {"name": "waiting"})
    wait(lambda: going.status().stage == "waiting")
    client.cancel(waiting)
    assert waiting.status().state == "cancelled"
    with pytest.raises(InputError, match="is running: cancel it before"):
        delete(going)
    started = time.monotonic()
    client.cancel(going)
    wait(lambda: ended(going))
    assert time.monotonic() - started < 2
    assert going.status().state == "cancelled"
    assert not going.part.exists() and not going.results.exists()
    delete(going)
    assert find(cache, going.id) is None and not going.folder.exists()
    again = client.submit("count", {"name": "waiting"})  # a cancelled run is repeated when it is asked for again
    assert again == waiting
    wait(lambda: again.status().state == "done")


def test_a_killed_worker_leaves_an_interrupted_run_that_can_be_started_again(cache, wait, tmp_path):
    run = client.submit("count", {"until": str(tmp_path / "go")})
    waiting = client.submit("count", {"name": "waiting"})
    wait(lambda: run.status().stage == "waiting")
    (run.part / "half").touch()
    killed = worker_pid(cache)
    os.kill(killed, signal.SIGKILL)
    wait(lambda: worker_pid(cache) != killed)  # another may be there: the second submission can have started one
    assert (run.status().state, run.status().message) == ("interrupted", f"{STOPPED} Start it again: it begins anew.")
    assert not run.results.exists()
    client.ensure_worker()  # what a page does that sees a waiting run
    wait(lambda: waiting.status().state == "done")
    assert run.status().state == "interrupted"
    (tmp_path / "go").touch()
    client.restart(run)
    wait(lambda: run.status().state == "done")
    # what was half done is not among them
    assert {file.name for file in run.results.iterdir()} == {"begun", "count.txt", "silent"}


def test_failures_say_what_is_wrong(cache, wait):
    runs = {fail: client.submit("count", {"fail": fail}) for fail in ("input", "memory", "bug")}
    wait(lambda: all(map(ended, runs.values())))
    assert {run.status().state for run in runs.values()} == {"failed"}
    assert runs["input"].status().message == "corpus/math.jsonl, line 17: not JSON"
    assert "Traceback" not in runs["input"].log()
    assert "lower the batch size" in runs["memory"].status().message
    message = runs["bug"].status().message
    assert message == "Internal error (ZeroDivisionError: division by zero); the log has the details"
    assert "Traceback" in runs["bug"].log()
    assert not any(run.results.exists() or run.part.exists() for run in runs.values())


def test_a_run_whose_input_was_edited_before_it_began_fails_and_is_done_where_it_is_put_back(cache, wait, tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text("one")
    going = client.submit("count", {"until": str(tmp_path / "go")})
    wait(lambda: going.status().stage == "waiting")
    run = client.submit("count", {"file": str(file)})
    file.write_text("other")
    (tmp_path / "go").touch()
    wait(lambda: ended(run))
    changed = f"{run.title}: its inputs (or this program) have changed since; start a new run instead"
    assert (run.status().state, run.status().message, run.status().stage) == ("failed", changed, "")
    assert client.submit("count", {"file": str(file)}).id != run.id
    file.write_text("one")
    assert client.submit("count", {"file": str(file)}) == run
    wait(lambda: run.status().state == "done")


def test_a_run_whose_input_is_edited_while_it_goes_leaves_no_result(cache, wait, tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text("one")
    run = client.submit("count", {"file": str(file), "until": str(tmp_path / "go")})
    wait(lambda: run.status().stage == "waiting")
    file.write_text("other")
    (tmp_path / "go").touch()
    wait(lambda: ended(run))
    assert run.status().state == "failed" and "have changed since" in run.status().message
    assert not run.results.exists() and not run.part.exists()


def test_a_run_of_a_kind_that_the_worker_does_not_know_fails_and_the_next_is_done(cache, wait):
    with transitions(cache):
        unknown = create(cache, "compare", "0" * 12, "compare", {}, {}, "99")
    run = client.submit("count", {})
    wait(lambda: run.status().state == "done")
    assert unknown.status().state == "failed"
    assert unknown.status().message.startswith("kind of run 'compare': expected one of classify, ")


@pytest.mark.parametrize(("fail", "error"), [("input", InputError), ("memory", RuntimeError), ("bug", RuntimeError)])
def test_who_waits_for_another_process_s_run_fails_as_that_does(fail, error, cache, wait, tmp_path):
    request = {"fail": fail, "until": str(tmp_path / "go")}
    run = client.submit("count", request)
    wait(lambda: run.status().stage == "waiting")
    with pytest.raises(error) as raised:
        here.do("count", request, lambda *_: (tmp_path / "go").touch())
    assert type(raised.value) is error and str(raised.value) == run.status().message


def test_two_clients_at_once_make_one_run_and_one_worker(cache, wait):
    found = []
    threads = [threading.Thread(target=lambda: found.append(client.submit("count", LONG))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({run.id for run in found}) == 1 and len(list_runs(cache)) == 1
    wait(lambda: found[0].status().state == "running")
    pid = worker_pid(cache)
    subprocess.run([*client.WORKER, str(cache), "1"], check=True)  # a second worker finds the lock taken and ends
    time.sleep(1.5)
    assert worker_pid(cache) == pid and found[0].status().state == "running"


def test_a_question_is_answered_while_a_run_is_going(cache, wait):
    assert client.ask("double", number=21) == 42
    assert stat.S_IMODE((cache / "worker.json").stat().st_mode) == 0o600
    run = client.submit("count", LONG)
    wait(lambda: run.status().stage == "waiting")
    started = time.monotonic()
    assert client.ask("double", number=4) == 8
    assert time.monotonic() - started < 1
    with pytest.raises(InputError, match="number -1: expected 0 or more"):
        client.ask("double", number=-1)
    with pytest.raises(RuntimeError, match="Internal error"):
        client.ask("halve", number=1)
    assert run.status().state == "running"


def test_a_question_to_a_worker_that_does_not_report_times_out(cache, wait):
    run = client.submit("count", {"steps": 1, "seconds": 30.0})
    wait((run.part / "silent").exists)
    with pytest.raises(TimeoutError, match="did not answer within 1 seconds: it is busy"):
        client.ask("double", timeout=1, number=1)


def test_an_idle_worker_ends_and_the_next_run_starts_another(cache, wait, monkeypatch):
    monkeypatch.setenv("COUNTING_IDLE", "0.3")
    client.ask("double", number=1)
    wait(lambda: worker_pid(cache) is None)
    run = client.submit("count", {})
    wait(lambda: run.status().state == "done")


def test_a_worker_of_other_code_ends_after_its_run_and_its_successor_does_the_queue(cache, wait, tmp_path, monkeypatch):
    going = client.submit("count", {"until": str(tmp_path / "go")})
    wait(lambda: going.status().stage == "waiting")
    old = worker_pid(cache)
    described = json.loads((cache / "worker.json").read_text())
    assert (described["version"], described["package"]) == (__version__, str(PACKAGE))
    with monkeypatch.context() as updated:
        updated.setattr(questions, "__version__", "later")
        queued = [client.submit("count", {"name": name}) for name in "ab"]
        assert client.ask("double", number=2) == 4
    assert worker_pid(cache) == old and going.status().state == "running"
    (tmp_path / "go").touch()
    wait(lambda: all(run.status().state == "done" for run in (going, *queued)))
    assert worker_pid(cache) not in (None, old)
    assert [run.status().pid for run in (going, *queued)] == [old, worker_pid(cache), worker_pid(cache)]
    assert not stop_marker(cache).exists()


def test_a_merge_continues_from_what_a_killed_worker_left(cache, wait, tmp_path, monkeypatch):
    monkeypatch.setitem(KINDS, "merge", COUNTED["merge"])
    run = client.submit("merge", {"until": str(tmp_path / "go")})
    wait(lambda: run.status().stage == "waiting")
    (run.part / "journal").touch()
    os.kill(worker_pid(cache), signal.SIGKILL)
    wait(lambda: worker_pid(cache) is None)
    assert run.status().message == f"{STOPPED} Start it again to continue."
    (tmp_path / "go").touch()
    client.restart(run)
    wait(lambda: run.status().state == "done")
    assert (run.results / "journal").exists()


@pytest.mark.parametrize(
    ("failure", "edited", "kept"),
    [
        (MemoryError(), False, True),
        (InputError("the disk is full"), False, True),
        (MemoryError(), True, False),  # what it had may be of either text
        (Damaged(Path("journal.log"), "found no line"), False, False),  # else it would be met again
    ],
)
def test_a_run_that_can_be_paused_keeps_what_it_had_where_it_fails(cache, tmp_path, monkeypatch, failure, edited, kept):
    monkeypatch.setitem(KINDS, "count", replace(COUNTED["count"], resumable=True, paused=True))
    file = tmp_path / "texts.jsonl"
    file.write_text("one")

    def failing(parameters, results, progress):
        (results / "trials").touch()
        if edited:
            file.write_text("other")
        raise failure

    monkeypatch.setitem(OPERATIONS, "count", failing)
    with pytest.raises(type(failure)):
        here.do("count", {"file": str(file)})
    [run] = list_runs(cache)
    assert run.status().state == "failed" and (run.part / "trials").exists() == kept
    file.write_text("one")
    monkeypatch.setitem(OPERATIONS, "count", lambda parameters, results, progress: None)
    assert here.do("count", {"file": str(file)}) == run and (run.results / "trials").exists() == kept


def test_states_change_only_as_they_should(cache, wait):
    run = client.submit("count", {})
    wait(lambda: run.status().state == "done")
    with transitions(cache):
        queue.requeue(run)
        queue.request_cancel(run)
    assert run.status().state == "done" and not run.cancel_marker.exists()
