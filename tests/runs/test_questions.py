"""The worker's door: strangers, silence and noise, a worker that hangs, and files that are not what they should be."""

import json
import os
import random
import resource
import shutil
import signal
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path

import pytest

from nmerge_core.errors import InputError
from nmerge_core.runs import client, lock
from nmerge_core.runs.folder import list_runs
from nmerge_core.runs.lock import transitions, worker_pid
from nmerge_core.runs.questions import address_at
from tests.runs.conftest import counting

LONG = {"until": "/nowhere"}  # a run that goes until it is cancelled or killed


@pytest.fixture(scope="module")
def served(forked, tmp_path_factory):
    """A cache whose worker is there, for tests that leave it alive."""
    with counting(forked, tmp_path_factory.mktemp("served") / "cache") as root:
        yield root


def connected(cache):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(5)
    connection.connect(address_at(cache).address)
    return connection


def test_a_client_that_says_nothing_holds_nobody_up(served):
    assert client.ask("double", number=1) == 2
    silent = [connected(served) for _ in range(8)]
    slow = connected(served)
    slow.sendall(b'{"question"')
    started = time.monotonic()
    assert client.ask("double", timeout=10, number=2) == 4
    assert time.monotonic() - started < 2
    for connection in (*silent, slow):
        connection.close()


def test_whatever_a_stranger_says_the_worker_lives_and_answers_its_own(served):
    assert client.ask("double", number=1) == 2
    pid, key = worker_pid(served), address_at(served).key
    asked = {"question": "double", "arguments": {"number": 1}, "until": time.monotonic() + 5, "key": key}
    said = [b"", b"\n", b"[]\n", b"null\n", b"{}\n", b"[" * 100_000 + b"\n", random.Random(0).randbytes(4000) + b"\n"]
    for name, value in (("until", "soon"), ("until", 1e300), ("until", None), ("arguments", []), ("question", 3)):
        said.append(json.dumps({**asked, name: value}).encode() + b"\n")
    for key in ("", "0" * 64, "é"):
        said.append(json.dumps({**asked, "key": key}).encode() + b"\n")
    for message in said:
        with connected(served) as connection:
            connection.sendall(message)
            connection.shutdown(socket.SHUT_WR)
            if b"1e+300" not in message:  # which waits for its answer
                assert connection.recv(1000) == b"", message
    for arguments in ({"number": "a" * 3}, {"other": 1}, {}):
        with pytest.raises((InputError, RuntimeError)):
            client.ask("double", **arguments)
    assert client.ask("double", number=2) == 4 and worker_pid(served) == pid


def test_a_question_comes_back_in_time_from_a_worker_that_hangs(served):
    assert client.ask("double", number=1) == 2
    pid = worker_pid(served)
    os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(TimeoutError, match="did not answer within 1 seconds: it is busy"):
            client.ask("double", timeout=1, number=1)
        assert time.monotonic() - started < 3
    finally:
        os.kill(pid, signal.SIGCONT)
    assert client.ask("double", number=2) == 4


def test_a_clock_that_jumps_changes_nothing(served, monkeypatch):
    assert client.ask("double", number=1) == 2
    real = time.time
    for jump in (-86_400, 86_400):
        monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
        assert client.ask("double", timeout=5, number=2) == 4


@pytest.mark.parametrize("content", ["", '{"pid": 1', "[1]", '{"pid": "1"}', None])
def test_a_worker_json_that_is_none_is_written_again(served, content):
    assert client.ask("double", number=1) == 2
    pid, told = worker_pid(served), served / "worker.json"
    if content is None:
        (served / "aside/inside").mkdir(parents=True)
        while not told.is_dir():
            told.unlink(missing_ok=True)
            with suppress(NotADirectoryError):  # the worker was quicker
                (served / "aside").rename(told)
    else:
        told.write_text(content)
    assert client.ask("double", timeout=5, number=2) == 4
    assert worker_pid(served) == pid and stat.S_IMODE(told.stat().st_mode) == 0o600


def test_another_cache_s_worker_json_leads_nowhere_and_is_written_again(served):
    assert client.ask("double", number=1) == 2
    told = json.loads((served / "worker.json").read_text())
    (served / "worker.json").write_text(json.dumps({**told, "pid": os.getpid(), "address": "/nowhere"}))
    assert client.ask("double", timeout=5, number=2) == 4


def vanish(cache: Path) -> None:
    """Delete a cache, whatever its worker writes into it meanwhile."""
    gone = cache.with_name(f"{cache.name}-gone")
    cache.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def test_a_cache_deleted_under_a_busy_worker_leaves_one_worker(cache, wait):
    going = client.submit("count", LONG)
    wait(lambda: going.status().stage == "waiting")
    old = worker_pid(cache)
    vanish(cache)
    again = client.submit("count", LONG)  # the same run, in the folder of the same name
    wait(lambda: again.status().stage == "waiting")
    new = worker_pid(cache)
    assert new not in (None, old)
    wait(lambda: not os.path.exists(f"/proc/{old}") or "Z" in Path(f"/proc/{old}/stat").read_text().split()[2])
    time.sleep(0.5)
    assert (again.status().state, again.status().pid, worker_pid(cache)) == ("running", new, new)
    assert client.ask("double", number=2) == 4


def test_what_is_in_a_cache_is_its_user_s_alone(cache):
    cache.chmod(0o755)  # as it may have been before, and may have to be
    (cache / "runs").mkdir(mode=0o755)
    client.submit("count", {})
    assert client.ask("double", number=1) == 2
    modes = {name: stat.S_IMODE((cache / name).stat().st_mode) for name in ("runs", "worker.json", "worker.lock")}
    assert modes == {"runs": 0o700, "worker.json": 0o600, "worker.lock": 0o600}
    address = address_at(cache).address
    assert stat.S_IMODE(os.stat(address).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(address)).st_mode) == 0o700
    vanish(cache)
    with transitions(cache):
        assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def test_a_full_disk_is_told_in_a_sentence_and_the_worker_goes_on(cache, wait):
    assert client.ask("double", number=1) == 2
    before, pid = resource.getrlimit(resource.RLIMIT_FSIZE), worker_pid(cache)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(InputError, match=r"cannot be written \(File too large\); make room on the disk"):
            client.submit("count", {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list_runs(cache) == [] and not list((cache / "runs").iterdir())
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    run = client.submit("count", {})
    wait(lambda: (run.folder / "lock").exists())
    time.sleep(0.5)
    assert client.ask("double", number=2) == 4 and worker_pid(cache) == pid
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    client.submit("count", {})
    wait(lambda: run.status().state == "done")


def test_a_queue_that_another_process_does_not_give_back_is_told_of(cache, monkeypatch):
    monkeypatch.setattr(lock, "_PATIENCE", 0.1)
    with transitions(cache), pytest.raises(InputError, match="another process has held the queue of this cache"):
        client.submit("count", {})
