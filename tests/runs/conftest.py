import os
import signal
import time
from contextlib import contextmanager, suppress

import pytest

from nmerge_core.runs import client
from nmerge_core.runs.kinds import KINDS
from nmerge_core.runs.lock import worker_pid
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
