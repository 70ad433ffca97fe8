"""How a command ended, and what is wrong with that: an internal error, several lines, a long message, a long wait."""

import contextlib
import io
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType

from nmerge_core.cli import main
from nmerge_core.errors import InputError

SECONDS = 20  # of processors, in all: more than any command on a tiny family takes
HANGING = 200  # seconds after which a command is interrupted, on a machine with other work too
LONGEST = 4_000  # characters of an error


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and how much of processors' time it took."""

    status: int
    error: str
    seconds: float

    @property
    def fault(self) -> str:
        """What is wrong with it; empty where it ended as it should."""
        lines = [line for line in self.error.splitlines() if line.startswith("nmerge: error: ")]
        if self.status not in (0, 2):
            return f"status {self.status}: {self.error[-500:]}"
        if self.seconds > SECONDS:
            return f"{self.seconds:.1f} s: {self.error[:200]}"
        if self.status == 2 and (len(lines) != 1 or "Traceback" in self.error):
            return f"expected one line: {self.error[:500]}"
        if len(self.error) > LONGEST:
            return f"{len(self.error):,} characters of error: {self.error[:300]}"
        return ""


def command(*arguments: str) -> Outcome:
    """Run a command in this process."""
    return watched(lambda: main(arguments))


def reading(read: Callable[[], object]) -> Outcome:
    """Run a reader of the library; its `InputError` is what the command line would print."""

    def run() -> int:
        try:
            read()
        except InputError as error:
            print(f"nmerge: error: {' '.join(str(error).split())}", file=stderr)
            return 2
        return 0

    stderr = io.StringIO()
    found = watched(run)
    return Outcome(found.status, found.error + stderr.getvalue(), found.seconds)


def watched(run: Callable[[], int]) -> Outcome:
    """Run what returns an exit status, with its streams kept; what does not end is interrupted."""
    started, error = time.process_time(), io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error), _limit(HANGING):
        try:
            status = run()
        except Exception as failure:
            status = 1
            print(f"{type(failure).__name__}: {failure}"[:1_000], file=error)
    return Outcome(status, error.getvalue(), time.process_time() - started)


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def listed(faults: Sequence[str]) -> str:
    """List faults for a test's message."""
    return "\n".join(faults[:20])
