"""What pages and scripts call: start, find, cancel and repeat runs, and ask a worker a short question."""

import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from nmerge_core.cache import cache_root, make_private
from nmerge_core.errors import InputError
from nmerge_core.progress import Progress, silent
from nmerge_core.runs import queue
from nmerge_core.runs.folder import Run, create, find
from nmerge_core.runs.lock import opened, run_held, stop_marker, transitions
from nmerge_core.runs.questions import WorkerLost, ask_worker, outdated
from nmerge_core.runs.request import Request, check_unchanged, resolve
from nmerge_core.runs.workers import choose, environment, subject, workers
from nmerge_core.version import __version__

WORKER = (sys.executable, "-P", "-m", "nmerge_core.runs.worker")


def lookup(kind: str, parameters: Mapping[str, Any]) -> Run | None:
    """Return the run of this request if there is one, in whatever state, without starting anything.

    Raises:
        InputError: The parameters are wrong, or an input is missing.
    """
    root = cache_root()
    return find(root, resolve(root, kind, parameters).id)


def submit(kind: str, parameters: Mapping[str, Any], title: str = "") -> Run:
    """Queue a run and see that a worker is there; the run of an equal request is returned, and repeated if it failed.

    Raises:
        InputError: The parameters are wrong, or an input is missing.
    """
    root = cache_root()
    request = resolve(root, kind, parameters)
    with transitions(root):
        run = find_or_create(root, request, title)
        queue.requeue(run)
        if run.status().state == "queued":
            _replace_outdated_workers(root)  # before they can take the run
    if run.status().state == "queued":
        ensure_worker()
    return run


def find_or_create(root: Path, request: Request, title: str = "") -> Run:
    """Return the run of a request, making its folder, queued, where there is none or a damaged one.

    One that has no results yet and that nobody does is made anew where it is to come to them in another manner. The
    caller holds `transitions`.
    """
    run = find(root, request.id)
    if run is not None and (state := run.status().state) != "damaged":
        same = all(bool(run.parameters.get(name)) == value for name, value in request.manner.items())
        if same or state in ("done", "running"):
            return run
    if run is not None and run_held(run.folder):
        raise InputError(f"{run.status().message} when the process that is doing this run has ended")
    title = title or request.title
    return create(root, request.kind, request.key, title, request.parameters, request.inputs, __version__)


def restart(run: Run) -> None:
    """Queue a run again that has failed, was cancelled or was interrupted, or is damaged.

    Raises:
        InputError: An input has changed since: the run's figures would not be what its parameters say. Or what was
            asked for cannot be read any more.
    """
    root = cache_root()
    if run.damage:
        raise InputError(run.damage)
    request = check_unchanged(run)
    with transitions(root):
        queue.requeue(find_or_create(root, request, run.title))
        _replace_outdated_workers(root)
    ensure_worker()


def cancel(run: Run) -> None:
    """Cancel a waiting run at once, a going one within seconds."""
    with transitions(cache_root()):
        queue.request_cancel(run)


def ensure_worker() -> None:
    """Start a worker for every waiting run that no free one will take, as many as there may be; they outlive this.

    Raises:
        InputError: The cache cannot be written, a worker ended at once, or NMERGE_WORKERS is no number of workers.
    """
    root = cache_root()
    every = workers(root)
    wanted = len(queue.queued(root)) - sum(worker.free for worker in every)
    missing = [worker.number for worker in every if worker.pid is None]
    for number in missing[: max(wanted, 0)]:
        _start_worker(root, number)


def _replace_outdated_workers(root: Path) -> None:
    for worker in workers(root):
        _replace_outdated(root, worker.number)


def _replace_outdated(root: Path, number: int) -> None:
    """Ask a worker of other code to end after its current run, and start the successor, which waits for that."""
    if outdated(root, number):
        try:
            stop_marker(root, number).touch(exist_ok=False)
        except FileExistsError:  # its successor waits already
            return
        _start_worker(root, number)


def _start_worker(root: Path, number: int) -> None:
    try:
        make_private(root)
        with opened(root / "worker.log", "ab") as log:
            # the command forks the worker and ends, so nobody is left to wait for it
            subprocess.run(
                [*WORKER, str(root), str(number)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=True,
                env=environment(number),
            )
    except (OSError, subprocess.CalledProcessError) as error:
        why = error.strerror if isinstance(error, OSError) else "it ended at once"
        raise InputError(f"{root / 'worker.log'}: the worker cannot start ({why}); that file may say more") from error


def ask(
    question: str, *, timeout: float = 60.0, session: str = "", progress: Progress = silent, **arguments: Any
) -> Any:
    """Ask a worker a short question of `operations.QUESTIONS`, also while a run is going, and return its answer.

    A worker that is lost meanwhile is started again, and asked once more.

    Args:
        question: "generate" (model, prompt, max_new_tokens), "speak" (model, prompt, said, more, manner), "live"
            (recipe, and as "speak"), "problems" (tasks, corpus), "quick_scores" (source, name, start, stop, and a model
            or a recipe) or one of `NeuronQuestions` and `MergeQuestions`.
        timeout: Seconds to wait; the first question about a model loads it.
        session: Who asks: a question drops the one of the same name and session that still waits for its answer.
        progress: Hears what the worker is at meanwhile; where it raises, the question is taken back.
        arguments: The question's arguments, as JSON has them.

    Raises:
        InputError: The arguments are wrong, as the worker found.
        TimeoutError: No answer in time; the message is a sentence for the user.
        Superseded: The session has asked again meanwhile, as where its page was drawn anew.
        RuntimeError: The worker failed, or was lost twice; the message is a sentence for the user.
    """
    once = partial(_ask_once, question, timeout, session, progress, arguments)
    try:
        return once()
    except WorkerLost:
        return once()


def _ask_once(question: str, timeout: float, session: str, progress: Progress, arguments: Mapping[str, Any]) -> Any:
    root = cache_root()
    number = choose(root, subject(arguments))
    _replace_outdated(root, number)
    start = partial(_start_worker, root, number)
    return ask_worker(root, number, question, arguments, timeout, session, start, progress)
