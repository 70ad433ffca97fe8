import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

import nmerge_core
from nmerge_core.parameters import Number, Text
from nmerge_core.runs import client
from nmerge_core.runs.kinds import KINDS, Kind
from nmerge_core.runs.lock import worker_pid


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
def cache(tmp_path, monkeypatch):
    """An empty cache served by the counting worker, which a client starts when it needs it."""
    root = tmp_path / "cache"
    root.mkdir()
    monkeypatch.setenv("NMERGE_CACHE", str(root))
    monkeypatch.setattr(client, "WORKER", (sys.executable, str(Path(__file__).with_name("counting_worker.py"))))
    monkeypatch.setenv("PYTHONPATH", str(Path(nmerge_core.__file__).parents[1]))
    numbers = (Number(name="steps", default=3, help="", whole=True), Number(name="seconds", default=0.0, help=""))
    texts = tuple(Text(name=name, help="") for name in ("until", "fail", "name"))
    monkeypatch.setitem(KINDS, "count", Kind("count", "counts", (*numbers, *texts)))
    yield root
    while pid := worker_pid(root):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
