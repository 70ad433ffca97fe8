"""The file locks of a cache: who is the worker, who may change the state of runs, and who is doing one."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def stop_marker(root: Path) -> Path:
    """Return the file whose presence asks the worker to end after its current run: a successor waits for the lock."""
    return root / "worker.stop"


def hold_worker_lock(root: Path) -> IO[bytes] | None:
    """Become the one worker of this cache, waiting for the one before where it is asked to end.

    Returns:
        The open lock file, which the worker keeps open for as long as it lives (the kernel frees the lock however
        the process ends), or None if another worker holds it.
    """
    root.mkdir(parents=True, exist_ok=True)
    file = (root / "worker.lock").open("a+b")
    tries = 0
    while tries < 10 or stop_marker(root).exists():  # a client that looks who holds the lock has it for a moment
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02 if tries < 10 else 0.5)
            tries += 1
            continue
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        file.flush()
        return file
    file.close()
    return None


def worker_pid(root: Path) -> int | None:
    """Return the process id of the living worker of this cache, or None if there is none."""
    try:
        with (root / "worker.lock").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or 0)
    except FileNotFoundError:
        pass
    return None


@contextmanager
def transitions(root: Path) -> Iterator[None]:
    """Hold the right to change which state the runs of this cache are in (clients and the worker take turns)."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / "queue.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def hold_run(folder: Path) -> IO[bytes] | None:
    """Become the one who does a run; the kernel frees the lock however the process ends.

    Returns:
        The open lock file, to be closed when the run has ended, or None where somebody else is doing it.
    """
    file = (folder / "lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def run_held(folder: Path) -> bool:
    """Tell whether a living process is doing a run."""
    try:
        with (folder / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
