"""The one process of a cache that owns every model: it does the queued runs, and answers short questions meanwhile."""

import gc
import logging
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from nmerge_core.errors import InputError
from nmerge_core.kept_files import remove
from nmerge_core.runs import queue
from nmerge_core.runs.folder import Run, clear_leftovers, list_runs
from nmerge_core.runs.lock import hold_worker_lock, holds, stop_marker, transitions, worker_lock
from nmerge_core.runs.perform import Operation, RunProgress, perform
from nmerge_core.runs.questions import Questions, QuestionServer

IDLE_SECONDS = 30 * 60
_LOOK_SECONDS = 0.3  # between looks at the queue


class Worker:
    """Holds the worker lock of a cache and its question socket."""

    def __init__(self, root: Path, lock: IO[bytes], operations: Mapping[str, Operation], questions: Questions) -> None:
        """Take over the cache whose worker lock is held: runs that nobody does any more are marked as interrupted."""
        self._root, self._lock, self._operations = root, lock, operations
        with transitions(root):
            clear_leftovers(root)
            for run in list_runs(root):
                status = run.status()
                if status.state == "interrupted":
                    run.write_status(status)
        remove(stop_marker(root))  # it was for the worker before
        self._questions = QuestionServer(root, questions)

    def serve(self, idle_seconds: float = IDLE_SECONDS) -> None:
        """Do runs in order of submission and answer questions, until there was neither for `idle_seconds`.

        Where a successor waits, end after the current run and leave it the queue; end too where the cache was deleted.
        """
        last = time.monotonic()
        while holds(self._lock, worker_lock(self._root)):
            taken = None
            try:
                with transitions(self._root):
                    replaced = stop_marker(self._root).exists()
                    taken = None if replaced else queue.take(self._root)
                    if replaced or (taken is None and time.monotonic() - last > idle_seconds):
                        self._lock.close()  # before a client can queue a run and believe that it will be done
                        break
                if taken is not None:
                    self._do(*taken)
            except InputError as error:  # the disk is full: questions can be answered all the same
                logging.warning("%s", error)
            if self._questions.answer(wait=0 if taken is not None else _LOOK_SECONDS) or taken is not None:
                last = time.monotonic()
        self._questions.answer(wait=_LOOK_SECONDS)  # of clients that came before the lock was free

    def _do(self, run: Run, lock: IO[bytes]) -> None:
        """Do one run to its end, whatever that is; only a kill leaves results.part."""
        with lock:
            perform(run, self._operations, RunProgress(run, lock, between=self._questions.answer))
        _release_memory()


def _release_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    """Fork into the background and serve the cache named on the command line, unless another worker does."""
    root = Path(sys.argv[1]).resolve()
    if os.fork():
        os._exit(0)
    os.setsid()
    lock = hold_worker_lock(root)
    if lock is None:
        return
    with suppress(OSError):  # when memory runs out, the kernel should end this process and not the pages
        Path("/proc/self/oom_score_adj").write_text("500")
    os.nice(5)  # pages stay quick while a run has the cores
    logging.captureWarnings(True)
    from nmerge_core.runs.operations import OPERATIONS, QUESTIONS

    worker = Worker(root, lock, OPERATIONS, QUESTIONS)
    import torch  # noqa: F401  here, so that the first run or question need not wait for it
    import transformers  # noqa: F401

    worker.serve()


if __name__ == "__main__":
    main()
