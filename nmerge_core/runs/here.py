"""Doing a run in this process, kept in the same cache as those of the app: what a script or a notebook calls."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nmerge_core import distributed
from nmerge_core.cache import cache_root
from nmerge_core.errors import Cancelled, InputError
from nmerge_core.files.folders import copy_folder
from nmerge_core.progress import Progress, silent
from nmerge_core.runs import queue
from nmerge_core.runs.client import find_or_create, lookup
from nmerge_core.runs.folder import Run
from nmerge_core.runs.lock import transitions
from nmerge_core.runs.perform import Operation, RunProgress, perform
from nmerge_core.runs.request import resolve

_LOOK_SECONDS = 0.2  # between looks at a run that another process does


def finished(kind: str, parameters: Mapping[str, Any]) -> Run | None:
    """Return the run of this request if it is done, without starting anything.

    Raises:
        InputError: the parameters are wrong, or an input is missing.
    """
    run = lookup(kind, parameters)
    return run if run is not None and run.status().state == "done" else None


def do(
    kind: str,
    parameters: Mapping[str, Any],
    progress: Progress = silent,
    title: str = "",
    operations: Mapping[str, Operation] | None = None,
) -> Run:
    """Return the run of this request with its results, doing it here unless it is done.

    One that the app's worker or another process is doing is waited for. It is done by the kind's own operation, unless
    others are given.

    Raises:
        InputError: the parameters are wrong, an input is missing, or the run found that something is wrong.
        Cancelled: it was cancelled meanwhile.
        RuntimeError: it failed in another process; the message is a sentence for the user.
    """
    from nmerge_core.runs.operations import OPERATIONS

    root = cache_root()
    request = resolve(root, kind, parameters)
    while True:
        with transitions(root):
            run = find_or_create(root, request, title)
            if run.status().state == "done":
                return run
            lock = queue.begin(run)
        if lock:
            break
        _follow(run, progress)
        status = run.status()
        if status.state == "cancelled":
            raise Cancelled
        if status.state == "failed":
            raise (InputError if status.wrong_input else RuntimeError)(status.message)
    with lock, distributed.alone():  # whoever was started beside this process waits for the run
        failure = perform(run, operations or OPERATIONS, RunProgress(run, lock, progress))
    if failure is not None:
        raise failure
    return run


def keep(kind: str, parameters: Mapping[str, Any], made: Path) -> Run:
    """Return the run of this request, with the results that several processes have made of it together in a folder.

    Raises:
        InputError: as `do`.
    """
    return do(kind, parameters, operations={kind: lambda _, results, progress: copy_folder(made, results)})


def _follow(run: Run, progress: Progress) -> None:
    """Show how far a run of another process is, until it has ended."""
    while (status := run.status()).active:
        progress(status.stage or f"{run.title}: in another process", status.done, status.total or 1, status.unit)
        time.sleep(_LOOK_SECONDS)
