"""The order of runs and their changes of state; every function but `queued` is called holding `lock.transitions`."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import IO

from nmerge_core.files.kept_files import remove
from nmerge_core.runs.folder import Run, Status, list_runs
from nmerge_core.runs.lock import hold_run


def queued(root: Path) -> list[Run]:
    """Return the runs that wait for the worker, in order of submission."""
    waiting = [(run.status(), run) for run in list_runs(root)]
    return [run for status, run in sorted(waiting, key=lambda pair: pair[0].submitted) if status.state == "queued"]


def requeue(run: Run) -> None:
    """Queue a run again that has failed, was cancelled or was interrupted; any other is left as it is."""
    if run.status().state in ("failed", "cancelled", "interrupted"):
        remove(run.cancel_marker)
        run.write_status(Status("queued", submitted=time.time()))


def request_cancel(run: Run) -> None:
    """Cancel a waiting run at once; ask the worker to stop a going one."""
    status = run.status()
    if status.state == "queued":
        run.write_status(replace(status, state="cancelled", message="Cancelled before it began."))
    elif status.state == "running":
        run.cancel_marker.touch()


def take(root: Path) -> tuple[Run, IO[bytes]] | None:
    """Begin the first waiting run that nobody does, and return it with its lock; None where there is none."""
    for run in queued(root):
        if lock := begin(run):
            return run, lock
    return None


def begin(run: Run) -> IO[bytes] | None:
    """Mark a run as running in this process, and return its lock; None where another process does it."""
    lock = hold_run(run.folder)
    if lock:
        remove(run.cancel_marker)
        run.write_status(Status("running", submitted=run.status().submitted, started=time.time(), pid=os.getpid()))
    return lock
