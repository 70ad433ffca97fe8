"""What a signal to end does to a command: an exception where it comes, and again at the next report of progress.

What runs at that moment may swallow an exception: a finaliser, a callback of a weak reference, a library that catches
everything. The work would go on to its end.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_come = False


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGINT, unless it is ignored here, and SIGTERM end what is done inside; for the main thread."""
    global _come
    _come = False
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as for `nmerge … &` in a script
        numbers.append(signal.SIGINT)
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def telling_failures() -> Iterator[None]:
    """Let what fails inside by a signal to end, as an import that it interrupts does, end as interrupted."""
    try:
        yield
    except Exception:
        check()
        raise


def check() -> None:
    """Raise KeyboardInterrupt if a signal to end has come inside the last `interruptible`."""
    if _come:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _come
    _come = True
    raise KeyboardInterrupt
