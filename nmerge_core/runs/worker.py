"""A worker: the process that owns every model of an accelerator, does runs, and answers short questions meanwhile."""

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from nmerge_core.errors import InputError
from nmerge_core.files.kept_files import remove
from nmerge_core.machine import release_memory
from nmerge_core.runs import queue
from nmerge_core.runs.answering import Questions, QuestionServer, clear_after_killed
from nmerge_core.runs.folder import Run, clear_leftovers, list_runs
from nmerge_core.runs.lock import (
    give_back,
    hold_worker_lock,
    holds,
    note_run,
    stop_marker,
    transitions,
    was_killed,
    worker_lock,
)
from nmerge_core.runs.perform import Operation, RunProgress, perform
from nmerge_core.runs.workers import worker_at, workers

IDLE_SECONDS = 30 * 60
_LOOK_SECONDS = 0.3  # between looks at the queue
_START_SECONDS = 10.0  # that a worker may take to hold its lock
_TURN_SECONDS = 2.0  # at most, that a run has for itself after an answer


class Worker:
    """Holds the lock of a worker of a cache and its question socket."""

    def __init__(
        self,
        root: Path,
        lock: IO[bytes],
        operations: Mapping[str, Operation],
        questions: Questions,
        number: int = 1,
        spare: Callable[[], object] = lambda: None,
    ) -> None:
        """Become the worker whose lock is held: runs that nobody does any more are marked as interrupted.

        `spare` is called now and then, to free what nobody has asked about for long.
        """
        self._root, self._lock, self._operations, self._number, self._spare = root, lock, operations, number, spare
        self._turn = 0.0  # until when a run has its turn
        with transitions(root):
            clear_leftovers(root)
            for run in list_runs(root):
                status = run.status()
                if status.state == "interrupted":
                    run.write_status(status)
        remove(stop_marker(root, number))  # it was for the worker before
        self._questions = QuestionServer(root, questions, number)

    def serve(self, idle_seconds: float = IDLE_SECONDS) -> None:
        """Do runs in order of submission and answer questions, until there was neither for `idle_seconds`.

        Where a successor waits, end after the current run and leave it the queue; end too where the cache was deleted.
        """
        last = time.monotonic()
        while holds(self._lock, worker_lock(self._root, self._number)):
            taken = None
            try:
                with transitions(self._root):
                    replaced = stop_marker(self._root, self._number).exists()
                    taken = None if replaced or self._leaves_runs() else queue.take(self._root)
                    if replaced or (taken is None and time.monotonic() - last > idle_seconds):
                        give_back(self._lock)  # before a client can queue a run and believe that it will be done
                        break
                    if taken is not None:
                        note_run(self._lock, taken[0].id)  # before another worker looks who is free
                if taken is not None:
                    self._do(*taken)
            except InputError as error:  # the disk is full: questions can be answered all the same
                logging.warning("%s", error)
            if self._questions.answer(wait=0 if taken is not None else _LOOK_SECONDS) or taken is not None:
                last = time.monotonic()
            self._spare()
        while self._questions.answer(wait=_LOOK_SECONDS):  # clients that came before the lock was free
            pass

    def _leaves_runs(self) -> bool:
        """Whether somebody waits for this worker's answers, and another will take the run that comes next.

        One that is not there is being started by whoever queued the run, and given some seconds for it.
        """
        if not worker_at(self._root, self._number).about:
            return False
        others = [worker for worker in workers(self._root) if worker.number != self._number]
        if any(other.free for other in others):
            return True
        if all(other.pid is not None for other in others):
            return False
        return any(abs(time.time() - run.status().submitted) < _START_SECONDS for run in queue.queued(self._root))

    def _do(self, run: Run, lock: IO[bytes]) -> None:
        """Do one run to its end, whatever that is; only a kill leaves results.part."""
        try:
            with lock:
                perform(run, self._operations, RunProgress(run, lock, between=self._answer_in_turn))
        finally:
            note_run(self._lock)
        release_memory()

    def _answer_in_turn(self) -> None:
        """Answer a question that waits, unless a run has not had as long for itself since the last as that took."""
        began = time.monotonic()
        if began >= self._turn and self._questions.answer():
            ended = time.monotonic()
            self._turn = ended + min(ended - began, _TURN_SECONDS)


def main() -> None:
    """Fork into the background and be a worker of a cache, both named on the command line, unless there is one."""
    root, number = Path(sys.argv[1]).resolve(), int(sys.argv[2])
    if os.fork():
        os._exit(0)
    os.setsid()
    killed = was_killed(root, number)
    lock = hold_worker_lock(root, number)
    if lock is None:
        return
    with suppress(OSError):  # when memory runs out, the kernel should end this process and not the pages
        Path("/proc/self/oom_score_adj").write_text("500")
    os.nice(5)  # pages stay quick while a run has the cores
    logging.captureWarnings(True)
    from nmerge_core.runs.held import spare, tell_lost
    from nmerge_core.runs.operations import OPERATIONS
    from nmerge_core.runs.short_questions import QUESTIONS

    if killed:
        clear_after_killed(root, number)
        if worker_at(root, number).about:
            tell_lost()
    worker = Worker(root, lock, OPERATIONS, QUESTIONS, number, spare)
    import torch  # noqa: F401  here, so that the first run or question need not wait for it
    import transformers  # noqa: F401

    worker.serve()


if __name__ == "__main__":
    main()
