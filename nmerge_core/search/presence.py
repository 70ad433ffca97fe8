"""Which processes are at work on a sweep, on whatever machines: each says so again and again, in a file of its own."""

import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nmerge_core.errors import DISK_ERRORS

LEASE_SECONDS = 60.0  # without a beat, after which a process counts as gone; a shared file system may lag behind
_BEAT_SECONDS = 5.0


class Presence:
    """A process at work on a sweep, from `with` on until it ends; `name` is known by no other."""

    def __init__(self, folder: Path) -> None:
        """Say nothing yet."""
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._file = folder / self.name
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        """Begin to say so."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._say(0)
        self._beating.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Say that it is gone: others may take at once what it has not finished."""
        self._ended.set()
        self._beating.join()
        self._file.unlink(missing_ok=True)
        with suppress(OSError):  # others are there
            self._file.parent.rmdir()

    def _beat(self) -> None:
        beat = 1
        while not self._ended.wait(_BEAT_SECONDS):
            with suppress(FileNotFoundError):  # the folder was deleted: the trial will say so
                self._say(beat)
            beat += 1

    def _say(self, beat: int) -> None:
        content = {"machine": _machine(), "pid": os.getpid(), "began": _began(os.getpid()), "beat": beat}
        try:
            self._file.write_text(json.dumps(content), encoding="utf-8")
        except OSError as error:
            if error.errno not in DISK_ERRORS:  # the disk is full for a moment: the next beat
                raise


class Others:
    """What one process sees of the others, by its own clock: those of several machines need not agree."""

    def __init__(self, folder: Path) -> None:
        """Look at the folder in which they say that they are there."""
        self._folder = folder
        self._seen: dict[str, tuple[str, float]] = {}  # of each: what it said last, and since when

    def gone(self, name: str) -> bool:
        """Whether a process has ended, or has not said that it is there for as long as a lease."""
        try:
            said = (self._folder / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return True
        except OSError:
            said = ""
        if _ended_here(said):
            return True
        last, since = self._seen.get(name, ("", 0.0))
        if said != last or name not in self._seen:
            self._seen[name] = said, time.monotonic()
            return False
        return time.monotonic() - since > LEASE_SECONDS

    def forget(self, name: str) -> None:
        """Remove what a process that is gone has left."""
        (self._folder / name).unlink(missing_ok=True)


def _ended_here(said: str) -> bool:
    """Whether a process says that it is one of this machine's, on which it is no more."""
    try:
        content: dict[str, Any] = json.loads(said)
        return bool(content["machine"] == _machine() and content["began"] != _began(content["pid"]))
    except (ValueError, TypeError, KeyError):  # it is about to say something
        return False


def _machine() -> str:
    """Return what tells this machine's processes from those of others, and of other containers; a new one each time
    where nothing does.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return secrets.token_hex(8)


def _began(pid: int) -> str:
    """Return when a process of this machine began, in its own unit; empty where there is none, or it is a dead one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
