"""Several workers of one cache: which does what, and what becomes of the rest when one is lost."""

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nmerge_core.errors import InputError
from nmerge_core.runs import client, workers
from nmerge_core.runs.lock import stop_marker, worker_pid
from nmerge_core.runs.questions import WorkerLost

FIRST, SECOND = ({"base_model": "base", "models": [{"model": name}]} for name in ("math", "code"))


@pytest.fixture
def two(cache, monkeypatch):
    """A cache that may have two workers, on a host without accelerators."""
    monkeypatch.setenv("NMERGE_WORKERS", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return cache


def who(recipe):
    return client.ask("who", recipe=recipe)["pid"]


def test_accelerators_are_counted_by_what_the_process_may_use(monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "_DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("NMERGE_WORKERS", raising=False)
    assert (workers.accelerators(), workers.count()) == ([], 1)
    for name in ("nvidia1", "nvidia6", "nvidiactl", "nvidia-uvm"):  # a container that was given two of eight
        (tmp_path / name).touch()
    assert (workers.accelerators(), workers.count()) == (["0", "1"], 2)
    for told, expected in (("", []), ("-1", []), ("2, GPU-8f1,5", ["2", "GPU-8f1", "5"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", told)
        assert workers.accelerators() == expected


def test_workers_share_what_there_is(monkeypatch):
    def seen(number):
        environment = workers.environment(number)
        return environment.get("CUDA_VISIBLE_DEVICES"), environment.get("OMP_NUM_THREADS")

    for name in ("OMP_NUM_THREADS", "NMERGE_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(workers, "cores", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert workers.count() == 4 and seen(2) == ("5", "2")
    monkeypatch.setenv("NMERGE_WORKERS", "2")
    assert [seen(1), seen(2)] == [("4,6", "4"), ("5,7", "4")]
    monkeypatch.setenv("NMERGE_WORKERS", "6")
    assert [seen(number) for number in (4, 5, 6)] == [("7", "1"), ("4", "1"), ("5", "1")]
    monkeypatch.setenv("NMERGE_WORKERS", "1")
    assert seen(1) == ("4,5,6,7", None)  # as it is without us: a model may be spread over all
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("NMERGE_WORKERS", "4")
    assert seen(1) == ("4", "3")


@pytest.mark.parametrize("told", ["0", "65", "two", "-1", "1.5", "9" * 30])
def test_a_number_of_workers_that_is_none_is_refused(told, monkeypatch):
    monkeypatch.setenv("NMERGE_WORKERS", told)
    with pytest.raises(InputError, match="NMERGE_WORKERS: expected a number of workers from 1 to 64, found '"):
        workers.count()


def test_two_workers_take_runs_in_order_and_cancel_and_restart_are_as_with_one(two, wait, tmp_path):
    runs = [client.submit("count", {"name": name, "until": str(tmp_path / name)}) for name in "abcd"]
    wait(lambda: [run.status().stage for run in runs[:2]] == ["waiting", "waiting"])
    states = [run.status() for run in runs]
    assert [status.state for status in states] == ["running", "running", "queued", "queued"]
    assert states[0].pid != states[1].pid
    assert {worker_pid(two, number) for number in (1, 2)} == {status.pid for status in states[:2]}
    told = {workers.who_does(two, run.id) for run in runs}
    assert told == {"worker 1 of 2", "worker 2 of 2", ""}
    client.cancel(runs[2])
    (tmp_path / "b").touch()
    wait(lambda: runs[3].status().stage == "waiting")
    assert runs[3].status().pid == runs[1].status().pid and runs[2].status().state == "cancelled"
    client.cancel(runs[0])
    wait(lambda: runs[0].status().state == "cancelled")
    for name in "acd":
        (tmp_path / name).touch()
    for run in (runs[0], runs[2]):
        client.restart(run)
    wait(lambda: all(run.status().state == "done" for run in runs))


def test_workers_are_started_for_runs_that_wait_alone(two, wait):
    run = client.submit("count", {})
    wait(lambda: run.status().state == "done")
    wait(lambda: workers.worker_at(two, 1).free)
    again = client.submit("count", {"steps": 1})
    wait(lambda: again.status().state == "done")
    assert worker_pid(two, 2) is None
    assert client.ask("who")["OMP_NUM_THREADS"] == os.environ["OMP_NUM_THREADS"]


def test_a_killed_worker_leaves_the_other_and_its_run_as_they_are(two, wait, tmp_path):
    runs = [client.submit("count", {"name": name, "until": str(tmp_path / "go")}) for name in "ab"]
    wait(lambda: all(run.status().stage == "waiting" for run in runs))
    lost, kept = (run.status().pid for run in runs)
    os.kill(lost, signal.SIGKILL)
    wait(lambda: runs[0].status().state == "interrupted")
    client.restart(runs[0])
    wait(lambda: runs[0].status().stage == "waiting")
    assert runs[0].status().pid not in (lost, kept)
    assert (runs[1].status().state, runs[1].status().pid) == ("running", kept)
    (tmp_path / "go").touch()
    wait(lambda: all(run.status().state == "done" for run in runs))


def test_questions_about_a_merge_stay_with_a_worker_and_those_about_another_go_to_the_other(two):
    first = who(FIRST)
    second = who(SECOND)
    assert first != second
    averaged = {**FIRST, "base_model": None, "parameters": {"weight": 2}}
    assert [who(FIRST), who(SECOND), who(averaged)] == [first, second, first]
    assert who({**FIRST, "models": [*FIRST["models"], {"model": "prose"}]}) == first  # one more than before
    assert who({**FIRST, "models": [{"model": "prose"}]}) == first


def test_a_question_goes_where_no_run_is_and_a_run_where_nobody_asks(two, wait, tmp_path):
    asked = who(FIRST)
    run = client.submit("count", {"steps": 1, "seconds": 0.3, "until": str(tmp_path / "go")})
    wait(lambda: run.status().state == "running")
    assert run.status().pid != asked and who(FIRST) == asked
    assert who(SECOND) == asked  # the other does a run
    more = client.submit("count", {"name": "more", "until": str(tmp_path / "go")})
    wait(lambda: more.status().state == "running")  # where somebody asks, as nobody else is there
    assert more.status().pid == asked and who(SECOND) == asked
    (tmp_path / "go").touch()
    wait(lambda: run.status().state == more.status().state == "done")


def test_each_worker_of_other_code_is_replaced(two, wait):
    old = [who(FIRST), who(SECOND)]
    new = []
    for recipe, name in ((FIRST, "worker.json"), (SECOND, "worker-2.json")):
        described = json.loads((two / name).read_text())
        (two / name).write_text(json.dumps({**described, "version": "0"}))  # as if it began before an update
        new.append(who(recipe))
    assert len({*old, *new}) == 4
    assert not stop_marker(two, 1).exists() and not stop_marker(two, 2).exists()


def test_a_question_whose_worker_is_killed_is_asked_once_more(cache, wait, tmp_path):
    go = tmp_path / "go"

    def kill(lost):
        """Kill the worker that answers, which is another than the one lost before; return its process id."""
        answers = wait(lambda: (pid := worker_pid(cache)) and pid != lost and Path(f"{go}-{pid}").exists() and pid)
        os.kill(answers, signal.SIGKILL)
        return answers

    with ThreadPoolExecutor() as pool:
        answer = pool.submit(client.ask, "rest", until=str(go), recipe=FIRST)
        kill(kill(None))
        with pytest.raises(WorkerLost, match="stopped while it was answering .* close other programs"):
            answer.result()
        answer = pool.submit(client.ask, "rest", until=str(go), recipe=FIRST)
        lost = kill(None)
        go.touch()
        assert answer.result() == worker_pid(cache) != lost


def test_a_worker_that_cannot_start_is_told_of(cache, monkeypatch):
    monkeypatch.setattr(client, "WORKER", ("true",))
    with pytest.raises(RuntimeError, match=r"ends as soon as it is started; .*worker\.log may say why"):
        client.ask("double", timeout=0.3, number=1)


def test_many_questions_and_a_run_take_turns(cache, wait):
    client.ask("double", number=1)
    done, answered = threading.Event(), []

    def ask():
        while not done.is_set():
            client.ask("nap", seconds=0.1)
            answered.append(time.monotonic())

    with ThreadPoolExecutor() as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        time.sleep(0.5)
        before = len(answered)
        try:
            run = client.submit("count", {"steps": 4, "seconds": 0.25})
            wait(lambda: run.status().state == "done")
            assert len(answered) >= before + 3
        finally:
            done.set()
        for each in asking:
            each.result()
