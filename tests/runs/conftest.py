import os
import signal
import time
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import cast

import pytest

from nmerge_core.runs import client
from nmerge_core.runs.answering import QuestionServer, _Asker, _asker
from nmerge_core.runs.kinds import KINDS
from nmerge_core.runs.lock import worker_pid
from nmerge_core.runs.questions import Question
from tests.runs.counting_worker import COUNTED


def wait_for(condition, seconds=20):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"waited {seconds} s in vain"
        time.sleep(0.02)
    return found


@pytest.fixture
def wait():
    return wait_for


@pytest.fixture
def cache(forked, tmp_path):
    """An empty cache served by the counting worker, which a client starts when it needs it."""
    with counting(forked, tmp_path / "cache") as root:
        yield root


@contextmanager
def nobody_waits():
    """Have the questions that are answered in this process be those of a client that has left."""
    server = SimpleNamespace(report=lambda *said: None, awaits=lambda *asked: False, awaits_models=lambda asked: False)
    told = _asker.set(_Asker(cast(QuestionServer, server), Question("live", {}, 0.0, ""), Future()))
    try:
        yield
    finally:
        _asker.reset(told)


@contextmanager
def counting(forked, root):
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NMERGE_CACHE", str(root))
        patch.setattr(client, "WORKER", (*forked, "-m", "tests.runs.counting_worker"))
        patch.setitem(KINDS, "count", COUNTED["count"])
        yield root
    for number in (1, 2):
        while pid := worker_pid(root, number):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
