"""The one process of a cache that owns every model: it does the queued runs, and answers short questions meanwhile."""

import gc
import logging
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from nmerge_core.errors import Cancelled, InputError
from nmerge_core.machine import peak_memory
from nmerge_core.progress import Progress
from nmerge_core.runs import queue
from nmerge_core.runs.failure import out_of_memory, sentence
from nmerge_core.runs.folder import INTERRUPTED, Run, Status, list_runs
from nmerge_core.runs.lock import hold_worker_lock, stop_marker, transitions
from nmerge_core.runs.questions import Questions, QuestionServer

Operation = Callable[[Mapping[str, Any], Path, Progress], None]
RESUMABLE = ("merge",)  # kinds that continue from what a killed process left in results.part
IDLE_SECONDS = 30 * 60
_LOOK_SECONDS = 0.3  # between looks at the queue
_WRITE_SECONDS = 0.2  # between writes of status.json


class RunProgress:
    """Progress of a run into its status file; on the way, questions are answered and the cancel marker is heeded."""

    def __init__(self, run: Run, questions: QuestionServer) -> None:
        """Begin with the status the run has."""
        self._run = run
        self._questions = questions
        self.status = run.status()
        self._stage_started = self._written = 0.0
        self._first = 0.0  # what was done when the stage began: a resumed merge does not begin at 0

    def __call__(self, stage: str, done: float, total: float, unit: str = "") -> None:
        """Write the status at most five times a second; raises `Cancelled` if the user asked to stop."""
        now = time.monotonic()
        if stage != self.status.stage:
            self._stage_started, self._first = now, done
            append_log(self._run, stage)
        elif now - self._written < _WRITE_SECONDS:
            return
        spent = now - self._stage_started
        rate = (done - self._first) / spent if spent > 0 and done > self._first else None
        self.status = replace(
            self.status,
            stage=stage,
            done=done,
            total=total,
            unit=unit,
            rate=rate,
            eta=(total - done) / rate if rate else None,
            peak_memory=peak_memory(),
        )
        self._run.write_status(self.status)
        self._written = now
        self._questions.answer()
        if self._run.cancel_marker.exists():
            raise Cancelled


class Worker:
    """Holds the worker lock of a cache and its question socket."""

    def __init__(self, root: Path, lock: IO[bytes], operations: Mapping[str, Operation], questions: Questions) -> None:
        """Take over the cache whose worker lock is held: no run can be going, whatever its status file says."""
        self._root, self._lock, self._operations = root, lock, operations
        with transitions(root):
            for run in list_runs(root):
                status = run.status()
                if status.state in ("running", "interrupted"):  # "running" if this process got the dead one's id
                    run.write_status(replace(status, state="interrupted", message=INTERRUPTED, rate=None, eta=None))
        stop_marker(root).unlink(missing_ok=True)  # it was for the worker before
        self._questions = QuestionServer(root, questions)

    def serve(self, idle_seconds: float = IDLE_SECONDS) -> None:
        """Do runs in order of submission and answer questions, until there was neither for `idle_seconds`.

        Where a successor waits, end after the current run and leave it the queue.
        """
        last = time.monotonic()
        while True:
            with transitions(self._root):
                replaced = stop_marker(self._root).exists()
                run = None if replaced else queue.take(self._root, os.getpid())
                if replaced or (run is None and time.monotonic() - last > idle_seconds):
                    self._lock.close()  # before a client can queue a run and believe that it will be done
                    break
            if run is not None:
                self._do(run)
            if self._questions.answer(wait=0 if run is not None else _LOOK_SECONDS) or run is not None:
                last = time.monotonic()
        self._questions.answer(wait=_LOOK_SECONDS)  # of clients that came before the lock was free

    def _do(self, run: Run) -> None:
        """Do one run to its end, whatever that is; only a kill leaves results.part."""
        if run.kind not in RESUMABLE:
            shutil.rmtree(run.part, ignore_errors=True)
        shutil.rmtree(run.results, ignore_errors=True)
        run.part.mkdir(exist_ok=True)
        reset_peak_memory()
        progress = RunProgress(run, self._questions)
        handler = _log_to(run)
        try:
            append_log(run, f"started: {run.title}")
            self._operations[run.kind](run.parameters, run.part, progress)
            os.replace(run.part, run.results)
            state, message = "done", ""
        except Cancelled:
            state, message = "cancelled", "Cancelled."
        except InputError as error:
            state, message = "failed", str(error)
        except Exception as error:
            state, message = "failed", sentence(error)
            append_log(run, traceback.format_exc())
            if not out_of_memory(error):
                message += "; the log has the details"
        finally:
            logging.getLogger().removeHandler(handler)
            handler.close()
        shutil.rmtree(run.part, ignore_errors=True)
        append_log(run, f"{state}{': ' if message else ''}{message}")
        with transitions(self._root):
            run.cancel_marker.unlink(missing_ok=True)
            run.write_status(_ended(progress.status, state, message))
        _release_memory()


def _ended(status: Status, state: str, message: str) -> Status:
    done = status.total if state == "done" else status.done
    return replace(status, state=state, message=message, done=done, rate=None, eta=None, peak_memory=peak_memory())


def append_log(run: Run, text: str) -> None:
    """Add a line with the time of day to the run's log."""
    with (run.folder / "log.txt").open("a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%H:%M:%S')} {text.rstrip()}\n")


def _log_to(run: Run) -> logging.Handler:
    """Send the libraries' warnings to the run's log."""
    handler = logging.FileHandler(run.folder / "log.txt", encoding="utf-8")
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))
    logging.getLogger().addHandler(handler)
    return handler


def reset_peak_memory() -> None:
    """Let the kernel count this process's peak resident memory afresh."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


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
