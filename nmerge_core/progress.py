"""How long work tells how far it is, and how it learns that it should stop."""

import sys
import time
from contextlib import suppress
from typing import Protocol


class Progress(Protocol):
    """A report of progress; may raise `Cancelled` to stop the work that reports."""

    def __call__(self, stage: str, done: float, total: float, unit: str = "") -> None:
        """Report that `done` of `total` `unit`s of `stage` are finished; both start at 0 for every stage."""


def silent(stage: str, done: float, total: float, unit: str = "") -> None:
    """Report nothing."""


class TerminalProgress:
    """One line on stderr per stage: rewritten in place on a terminal, a line every ten seconds elsewhere."""

    def __init__(self) -> None:
        """Start with no stage."""
        self._stage = ""
        self._started = 0.0
        self._printed = 0.0

    def __call__(self, stage: str, done: float, total: float, unit: str = "") -> None:
        """Print the stage, share done, rate and time left, at most ten times a second."""
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        changed = stage != self._stage
        finished = done >= total
        if changed:
            if self._stage and terminal:
                sys.stderr.write("\n")
            self._stage, self._started = stage, now
        elif not finished and now - self._printed < (0.1 if terminal else 10):
            return
        self._printed = now
        spent = now - self._started
        left = f", {spent / done * (total - done):.0f} s left" if done and not finished and spent > 1 else ""
        line = f"{stage}: {_count(done)} of {_count(total)} {unit}".rstrip() + left
        with suppress(BrokenPipeError):  # nobody reads it any more; the work goes on
            sys.stderr.write(f"\r\x1b[K{line}" if terminal else f"{line}\n")
            if finished and terminal:
                sys.stderr.write("\n")
            sys.stderr.flush()
        if finished:
            self._stage = ""


def _count(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"
