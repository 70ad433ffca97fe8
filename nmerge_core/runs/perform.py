"""Doing one run to its end, whatever that is: in the worker, or in the process of whoever called."""

import logging
import os
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from nmerge_core.errors import Cancelled, InputError
from nmerge_core.files.kept_files import Damaged, remove
from nmerge_core.interrupts import telling_failures
from nmerge_core.machine import peak_memory
from nmerge_core.progress import Progress, silent
from nmerge_core.runs.failure import of_surroundings, sentence
from nmerge_core.runs.folder import Run, interrupted
from nmerge_core.runs.kinds import KINDS
from nmerge_core.runs.lock import holds, opened, run_lock, transitions
from nmerge_core.runs.request import check_unchanged, is_unchanged

Operation = Callable[[Mapping[str, Any], Path, Progress], None]
_WRITE_SECONDS = 0.2  # between writes of status.json


class RunProgress:
    """Progress of a run into its status file, and to whoever shows it; the cancel marker is heeded on the way."""

    def __init__(
        self, run: Run, lock: IO[bytes], shown: Progress = silent, between: Callable[[], object] = lambda: None
    ) -> None:
        """Begin with the status of a run whose lock is held; `between` is called after each write."""
        self._run, self._lock, self._shown, self._between = run, lock, shown, between
        self.status = run.status()
        self._began = time.monotonic()
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
        self._write()
        self._written = now
        self._between()
        if self._run.cancel_marker.exists():
            raise Cancelled

    def _write(self) -> None:
        """Write the status, or pass over it while the disk is full; raises InputError where the run was deleted."""
        if self._deleted:
            raise InputError(f"{self._run.folder}: deleted while the run was going; start it again")
        with suppress(OSError):
            self._run.write_status(self.status)

    @property
    def _deleted(self) -> bool:
        """Whether the run's folder is gone, be it that there is one of an equal run since."""
        return not holds(self._lock, run_lock(self._run.folder))

    def end(self, state: str, message: str, *, wrong_input: bool) -> None:
        """Write how the run ended, unless it was deleted."""
        status = self.status
        self.status = replace(
            status,
            state=state,
            message=message,
            done=status.total if state == "done" else status.done,
            rate=None,
            eta=None,
            peak_memory=peak_memory(),
            seconds=time.monotonic() - self._began,
            wrong_input=wrong_input,
        )
        if self._deleted:
            return
        with transitions(self._run.folder.parent.parent):
            remove(self._run.cancel_marker)
            self._run.write_status(self.status)


def perform(run: Run, operations: Mapping[str, Operation], progress: RunProgress) -> BaseException | None:
    """Do a run whose lock is held; return what ended it early, after its state tells of that.

    A kill, or an interrupt from the keyboard, of a run of a resumable kind leaves what it had for the next time; so
    does a failure, as by a full disk, of one that can be paused. It fails where what it reads is not what it is known
    by, be it when it begins or when it ends.

    Raises:
        InputError: how it ended cannot be written.
    """
    resumable = run.kind in KINDS and KINDS[run.kind].resumable
    failure: BaseException | None = None
    state, message, kept, handler = "done", "", False, None
    try:
        if not resumable:
            remove(run.part)
        remove(run.results)
        run.part.mkdir(exist_ok=True)
        reset_peak_memory()
        append_log(run, f"started: {run.title}")
        handler = _log_to(run)
        check_unchanged(run)
        with telling_failures():
            operations[run.kind](run.parameters, run.part, progress)
        check_unchanged(run)
        os.replace(run.part, run.results)
    except Cancelled as error:
        failure, state, kept = error, "cancelled", run.kind in KINDS and KINDS[run.kind].paused
        message = "Stopped. Start it again to continue." if kept else "Cancelled."
    except InputError as error:
        failure, state, message = error, "failed", str(error)
    except KeyboardInterrupt as error:
        failure, state, kept = error, "interrupted", resumable
        message = interrupted(run.kind, "Interrupted, from the keyboard or by a signal to end.")
    except Exception as error:
        failure, state, message = error, "failed", sentence(error)
        append_log(run, traceback.format_exc())
        if not of_surroundings(error):
            message += "; the log has the details"
    finally:
        if handler:
            logging.getLogger().removeHandler(handler)
            handler.close()
    if state == "failed" and not isinstance(failure, Damaged):
        kept = run.kind in KINDS and KINDS[run.kind].paused and is_unchanged(run)
    if not kept:
        remove(run.part)
    append_log(run, f"{state}{': ' if message else ''}{message}")
    progress.end(state, message, wrong_input=isinstance(failure, InputError))
    return failure


def append_log(run: Run, text: str) -> None:
    """Add a line with the time of day to the run's log, where there is room for it."""
    with suppress(OSError), opened(run.folder / "log.txt", "ab") as file:
        file.write(f"{time.strftime('%H:%M:%S')} {text.rstrip()}\n".encode(errors="replace"))


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
