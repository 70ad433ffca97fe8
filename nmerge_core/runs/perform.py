"""Doing one run to its end, whatever that is: in the worker, or in the process of whoever called."""

import logging
import os
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from nmerge_core.errors import Cancelled, InputError
from nmerge_core.machine import peak_memory
from nmerge_core.progress import Progress, silent
from nmerge_core.runs.failure import out_of_memory, sentence
from nmerge_core.runs.folder import Run, Status, interrupted
from nmerge_core.runs.kinds import KINDS
from nmerge_core.runs.lock import transitions
from nmerge_core.runs.request import check_unchanged

Operation = Callable[[Mapping[str, Any], Path, Progress], None]
_WRITE_SECONDS = 0.2  # between writes of status.json


class RunProgress:
    """Progress of a run into its status file, and to whoever shows it; the cancel marker is heeded on the way."""

    def __init__(self, run: Run, shown: Progress = silent, between: Callable[[], object] = lambda: None) -> None:
        """Begin with the status the run has; `between` is called after each write."""
        self._run, self._shown, self._between = run, shown, between
        self.status = run.status()
        self._stage_started = self._written = 0.0
        self._first = 0.0  # what was done when the stage began: a resumed merge does not begin at 0

    def __call__(self, stage: str, done: float, total: float, unit: str = "") -> None:
        """Write the status at most five times a second; raises `Cancelled` if the user asked to stop."""
        self._shown(stage, done, total, unit)
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
        self._between()
        if self._run.cancel_marker.exists():
            raise Cancelled


def perform(run: Run, operations: Mapping[str, Operation], progress: RunProgress) -> BaseException | None:
    """Do a run whose lock is held; return what ended it early, after its state tells of that.

    A kill, or an interrupt from the keyboard, of a run of a resumable kind leaves what it had for the next time. It
    fails where what it reads is not what it is known by, be it when it begins or when it ends.
    """
    resumable = run.kind in KINDS and KINDS[run.kind].resumable
    if not resumable:
        shutil.rmtree(run.part, ignore_errors=True)
    shutil.rmtree(run.results, ignore_errors=True)
    run.part.mkdir(exist_ok=True)
    reset_peak_memory()
    handler = _log_to(run)
    failure: BaseException | None = None
    state, message, kept = "done", "", False
    try:
        append_log(run, f"started: {run.title}")
        check_unchanged(run)
        operations[run.kind](run.parameters, run.part, progress)
        check_unchanged(run)
        os.replace(run.part, run.results)
    except Cancelled as error:
        failure, state, message = error, "cancelled", "Cancelled."
    except InputError as error:
        failure, state, message = error, "failed", str(error)
    except KeyboardInterrupt as error:
        failure, state, kept = error, "interrupted", resumable
        message = interrupted(run.kind, "Interrupted, from the keyboard or by a signal to end.")
    except Exception as error:
        failure, state, message = error, "failed", sentence(error)
        append_log(run, traceback.format_exc())
        if not out_of_memory(error):
            message += "; the log has the details"
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    if not kept:
        shutil.rmtree(run.part, ignore_errors=True)
    append_log(run, f"{state}{': ' if message else ''}{message}")
    with transitions(run.folder.parent.parent):
        run.cancel_marker.unlink(missing_ok=True)
        ended = _ended(progress.status, state, message)
        run.write_status(replace(ended, wrong_input=isinstance(failure, InputError)))
    return failure


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
