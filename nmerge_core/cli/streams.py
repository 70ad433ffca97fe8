"""Standard streams that were closed, or whose reader left: what nobody reads is lost, and the work goes on."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_UNREAD = {errno.EPIPE, errno.EBADF, errno.EIO}  # the reader left, as `head` does; the terminal is gone


class _Stream:
    """A stream to write to that goes on into nothing when it cannot be written any more for a reason in `lost`."""

    def __init__(self, stream: Any, lost: set[int] | None) -> None:
        """Keep the stream; with None any reason will do."""
        self._stream, self._lost = stream, lost

    def write(self, text: str) -> int:
        """Write a text."""
        try:
            return int(self._stream.write(text))
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """Write what is waiting."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        if self._lost is not None and error.errno not in self._lost:
            raise error
        with suppress(OSError):  # one that has no descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def standard_streams() -> Iterator[None]:
    """Let results go on into nothing when their reader left, and messages whatever happens to them.

    Results that a full disk does not take are an error all the same.
    """
    _open_closed()
    before = sys.stdout, sys.stderr
    opened = [stream or open(number, "w", closefd=False) for number, stream in zip((1, 2), before, strict=True)]
    for stream in opened:
        if hasattr(stream, "reconfigure"):  # a file's name may be no text in the terminal's encoding
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = _Stream(opened[0], _UNREAD), _Stream(opened[1], None)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _open_closed() -> None:
    """Open nothing in the place of closed descriptors: else the next file that is opened is a standard stream."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
