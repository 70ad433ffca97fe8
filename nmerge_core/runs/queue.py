"""The order of runs and their changes of state; every function but `queued` is called holding `lock.transitions`."""

import time
from dataclasses import replace
from pathlib import Path

from nmerge_core.runs.folder import Run, Status, list_runs


def queued(root: Path) -> list[Run]:
    """Return the runs that wait for the worker, in order of submission."""
    waiting = [(run.status(), run) for run in list_runs(root)]
    return [run for status, run in sorted(waiting, key=lambda pair: pair[0].submitted) if status.state == "queued"]


def requeue(run: Run) -> None:
    """Queue a run again that has failed, was cancelled or was interrupted; any other is left as it is."""
    if run.status().state in ("failed", "cancelled", "interrupted"):
        run.cancel_marker.unlink(missing_ok=True)
        run.write_status(Status("queued", submitted=time.time()))


def request_cancel(run: Run) -> None:
    """Cancel a waiting run at once; ask the worker to stop a going one."""
    status = run.status()
    if status.state == "queued":
        run.write_status(replace(status, state="cancelled", message="Cancelled before it began."))
    elif status.state == "running":
        run.cancel_marker.touch()


def take(root: Path, pid: int) -> Run | None:
    """Mark the first waiting run as running in process `pid` and return it, or return None."""
    waiting = queued(root)
    if not waiting:
        return None
    run = waiting[0]
    run.cancel_marker.unlink(missing_ok=True)
    run.write_status(Status("running", submitted=run.status().submitted, started=time.time(), pid=pid))
    return run
