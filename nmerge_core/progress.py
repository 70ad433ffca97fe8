"""How long work tells how far it is, and how it learns that it should stop."""

import sys
import time
from contextlib import suppress
from typing import Any, Protocol

from nmerge_core import interrupts


class Progress(Protocol):
    """A report of progress; may raise `Cancelled` to stop the work that reports."""

    def __call__(self, stage: str, done: float, total: float, unit: str = "") -> None:
        """Report that `done` of `total` `unit`s of `stage` are finished; both start at 0 for every stage."""


def silent(stage: str, done: float, total: float, unit: str = "") -> None:
    """Report nothing."""


def shown_progress(shown: bool = True) -> Progress:
    """Return what shows progress where this process is: in a notebook, or on a terminal; nothing unless `shown`."""
    if not shown:
        return silent
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return NotebookProgress() if getattr(shell, "kernel", None) is not None else TerminalProgress()


class NotebookProgress:
    """One line below the cell, rewritten in place twice a second; it goes when the work is done."""

    def __init__(self) -> None:
        """Show nothing yet."""
        self._line = _Line()
        self._handle: Any = None
        self._shown = 0.0

    def __call__(self, stage: str, done: float, total: float, unit: str = "") -> None:
        """Show the stage, what is done and the time left."""
        now = time.monotonic()
        line, finished = self._line.at(stage, done, total, unit), done >= total
        if not finished and now - self._shown < 0.5:
            return
        self._shown = now
        content = {"text/plain": "" if finished else line}
        if self._handle is None:
            self._handle = sys.modules["IPython"].display.display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


class TerminalProgress:
    """One line on stderr per stage: rewritten in place on a terminal, a line every ten seconds elsewhere."""

    def __init__(self) -> None:
        """Start with no stage."""
        self._line = _Line()
        self._printed = 0.0

    def __call__(self, stage: str, done: float, total: float, unit: str = "") -> None:
        """Print the stage, share done, rate and time left, at most ten times a second; end what was interrupted.

        Raises:
            KeyboardInterrupt: a signal to end has come, and whoever was at work then has not ended.
        """
        interrupts.check()
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        changed, finished = stage != self._line.stage, done >= total
        if changed and self._line.stage and terminal:
            sys.stderr.write("\n")
        line = self._line.at(stage, done, total, unit)
        if not changed and not finished and now - self._printed < (0.1 if terminal else 10):
            return
        self._printed = now
        with suppress(BrokenPipeError):  # nobody reads it any more; the work goes on
            sys.stderr.write(f"\r\x1b[K{line}" if terminal else f"{line}\n")
            if finished and terminal:
                sys.stderr.write("\n")
            sys.stderr.flush()


class _Line:
    """What is said of a stage, with the time left since it began."""

    def __init__(self) -> None:
        self.stage, self._started = "", 0.0

    def at(self, stage: str, done: float, total: float, unit: str) -> str:
        now, finished = time.monotonic(), done >= total
        if stage != self.stage:
            self.stage, self._started = stage, now
        spent = now - self._started
        left = f", {spent / done * (total - done):.0f} s left" if done and not finished and spent > 1 else ""
        if finished:
            self.stage = ""
        return f"{stage}: {_count(done)} of {_count(total)} {unit}".rstrip() + left


def _count(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"
