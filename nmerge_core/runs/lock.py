"""The file locks of a cache: who its workers are, who may change the state of runs, and who is doing one."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from nmerge_core.cache import make_private
from nmerge_core.errors import InputError
from nmerge_core.files.kept_files import remove

_PATIENCE = 30.0  # seconds for the other processes' changes of state, each of which takes milliseconds


def worker_file(root: Path, name: str, number: int) -> Path:
    """Return a file of a worker, which are counted from 1; those of the first have no number in their names."""
    return root / f"worker{f'-{number}' if number > 1 else ''}.{name}"


def worker_lock(root: Path, number: int = 1) -> Path:
    """Return the file that a worker holds locked, with its process id in it and, while it does one, its run's id."""
    return worker_file(root, "lock", number)


def stop_marker(root: Path, number: int = 1) -> Path:
    """Return the file whose presence asks a worker to end after its current run: a successor waits for the lock."""
    return worker_file(root, "stop", number)


def hold_worker_lock(root: Path, number: int = 1) -> IO[bytes] | None:
    """Become this worker of the cache, waiting for the one before where it is asked to end.

    Returns:
        The open lock file, which the worker keeps open for as long as it lives (the kernel frees the lock however
        the process ends), or None if another process holds it.
    """
    make_private(root)
    file = opened(worker_lock(root, number), "a+b")
    tries = 0
    while tries < 10 or stop_marker(root, number).exists():  # a client that looks who holds it has it for a moment
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


def note_run(lock: IO[bytes], run: str = "") -> None:
    """Write into a worker's lock file which run it does, after its process id, which a reader always finds whole."""
    with suppress(OSError):  # the disk is full: the worker then seems to do none
        lock.truncate(len(str(os.getpid())))
        os.write(lock.fileno(), f" {run}".encode() if run else b"")


def give_back(lock: IO[bytes]) -> None:
    """Stop being a worker; who was killed leaves its process id behind instead."""
    lock.truncate(0)
    lock.close()


def was_killed(root: Path, number: int = 1) -> bool:
    """Tell whether nobody is this worker any more since a process that was it ended without giving back the lock."""
    try:
        return worker_pid(root, number) is None and worker_lock(root, number).stat().st_size > 0
    except OSError:
        return False


def holds(lock: IO[bytes], path: Path) -> bool:
    """Tell whether an open lock file is still the one at a path: it is not once its folder was deleted."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except OSError:
        return False


def at_work(root: Path, number: int = 1) -> tuple[int, str] | None:
    """Return the process id of a living worker and the id of the run that it does, if any; None if it is not there."""
    try:
        with worker_lock(root, number).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pid, _, run = file.read().decode().partition(" ")
                return int(pid or 0), run
    except (OSError, ValueError):  # there is no cache yet, or the worker is about to write its id
        pass
    return None


def worker_pid(root: Path, number: int = 1) -> int | None:
    """Return the process id of a living worker of this cache, or None if it is not there."""
    found = at_work(root, number)
    return found[0] if found else None


@contextmanager
def transitions(root: Path) -> Iterator[None]:
    """Hold the right to change which state the runs of this cache are in (clients and workers take turns).

    Raises:
        InputError: the cache cannot be written, or another process does not give that right back.
    """
    try:
        make_private(root)
        with opened(root / "queue.lock", "ab") as file:
            _wait_for(file, root)
            yield
    except OSError as error:
        raise InputError(
            f"{error.filename or root}: cannot be written ({error.strerror}); make room on the disk of the cache, or "
            "name another folder in NMERGE_CACHE"
        ) from error


def _wait_for(file: IO[bytes], root: Path) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise InputError(
                    f"{root}: another process has held the queue of this cache for {_PATIENCE:.0f} seconds; wait for "
                    "it, or end it if it hangs"
                ) from None
            time.sleep(0.01)


def opened(path: Path, mode: str) -> IO[bytes]:
    """Open a lock or log file, this user's alone; a folder in its place goes, as nothing is kept there."""
    if path.is_dir():
        remove(path)
    return open(path, mode, opener=lambda file, flags: os.open(file, flags, 0o600))


def run_lock(folder: Path) -> Path:
    """Return the file that the process which does a run holds locked."""
    return folder / "lock"


def hold_run(folder: Path) -> IO[bytes] | None:
    """Become the one who does a run; the kernel frees the lock however the process ends.

    Returns:
        The open lock file, to be closed when the run has ended, or None where somebody else is doing it.
    """
    file = opened(run_lock(folder), "ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def run_held(folder: Path) -> bool:
    """Tell whether a living process is doing a run."""
    try:
        with run_lock(folder).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
