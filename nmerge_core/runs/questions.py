"""Short questions to a worker: a line of JSON each way over a Unix socket, whose address cache/worker.json tells."""

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nmerge_core.errors import InputError
from nmerge_core.files.kept_files import Damaged, read_object, reading, typed
from nmerge_core.places import PACKAGE
from nmerge_core.progress import Progress, silent
from nmerge_core.runs.lock import at_work, worker_file, worker_pid
from nmerge_core.version import __version__

LONGEST = 16 << 20  # bytes of a question, or of an answer
_START_SECONDS = 5.0  # after which a worker that is not there is started again


class Superseded(RuntimeError):
    """Whoever asked has asked again, and waits for that answer; the message is a sentence for the user."""

    def __init__(self) -> None:
        """Say so."""
        super().__init__("A newer question has taken the place of this one.")


class WorkerLost(RuntimeError):
    """The worker process ended while it was answering; the message is a sentence for the user."""

    def __init__(self) -> None:
        """Say so, and what to do."""
        super().__init__(
            "The worker process stopped while it was answering (killed, or out of memory): close other programs, or "
            "choose smaller models."
        )


@dataclass(frozen=True)
class Address:
    """What worker.json has: the process, its socket, the key that shows who could read this, and what it runs."""

    pid: int
    address: str
    key: str
    version: str = __version__
    package: str = str(PACKAGE)

    @property
    def runs_this_code(self) -> bool:
        """Whether that worker runs what this process runs."""
        return (self.version, self.package) == (__version__, str(PACKAGE))


@dataclass(frozen=True)
class Question:
    """What is asked; nobody waits for an answer after `until`, in seconds of the machine's monotonic clock.

    A `session` that asks the same question anew, of other arguments, waits for the newest answer alone.
    """

    question: str
    arguments: dict[str, Any]
    until: float
    key: str
    session: str = ""


def address_at(root: Path, number: int = 1) -> Address | None:
    """Return what a worker says of itself in worker.json; None where there is none that a worker wrote."""
    file = worker_file(root, "json", number)
    try:
        with reading(file):
            return typed(Address, read_object(file))
    except Damaged:
        return None


def outdated(root: Path, number: int) -> bool:
    """Tell whether a living worker of this cache runs other code than this process: it began before an update."""
    told = address_at(root, number)  # none while it is starting
    return told is not None and told.pid == worker_pid(root, number) and not told.runs_this_code


def ask_worker(
    root: Path,
    number: int,
    question: str,
    arguments: Mapping[str, Any],
    timeout: float,
    session: str,
    start: Callable[[], None],
    progress: Progress = silent,
) -> Any:
    """Ask a worker of this cache and return its answer; `start` is called where it is not there.

    What the worker is at meanwhile, be it another's question, is reported to `progress`; where that raises, nobody
    waits for the answer any more.

    Raises:
        InputError: The question's input is wrong, as the worker found.
        TimeoutError: No answer within `timeout` seconds; the message says that the worker is busy.
        Superseded: The session has asked a newer question.
        WorkerLost: The worker process ended meanwhile.
        RuntimeError: The worker failed; the message is a sentence for the user, as those of the others are.
    """
    until = time.monotonic() + timeout
    try:
        connection, told = _connected(root, number, until, start)
        with connection:
            said = line(asdict(Question(question, dict(arguments), until, told.key, session)))
            if len(said) > LONGEST:
                raise InputError(f"expected at most {LONGEST >> 20} MB of text, found more; shorten it")
            try:
                send(connection, said, until)
                reply = _reply(connection, until, progress)
            except (EOFError, ConnectionError) as error:
                _wait_for_end(root, number, told.pid, until)
                raise WorkerLost from error
    except TimeoutError as error:
        raise TimeoutError(
            f"The worker did not answer within {timeout:.0f} seconds: it is busy. Try again in a moment."
        ) from error
    if "superseded" in reply:
        raise Superseded
    if "input_error" in reply:
        raise InputError(reply["input_error"])
    if "failure" in reply:
        raise RuntimeError(reply["failure"])
    return reply["answer"]


def _reply(connection: socket.socket, until: float, progress: Progress) -> dict[str, Any]:
    for said in lines(connection, until):
        reply: dict[str, Any] = json.loads(said)
        if "progress" not in reply:
            return reply
        progress(*reply["progress"])
    raise EOFError


def _connected(root: Path, number: int, until: float, start: Callable[[], None]) -> tuple[socket.socket, Address]:
    """Connect to a worker of a cache once it is there, and return what it says of itself.

    One of other code is heard while it does its last run, and its successor awaited after that.

    Raises:
        TimeoutError: it is there, and does not hear.
        RuntimeError: it does not come, however often it is started.
    """
    started = None
    while (left := until - time.monotonic()) > 0:
        told, (pid, run) = address_at(root, number), at_work(root, number) or (None, "")
        if pid is None and (started is None or time.monotonic() - started > _START_SECONDS):
            start()
            started = time.monotonic()
        if told is not None and told.pid == pid and (told.runs_this_code or run):
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(left)
            try:
                connection.connect(told.address)
                return connection, told
            except (FileNotFoundError, ConnectionError, BlockingIOError):  # it has just stopped, or many ask at once
                connection.close()
        time.sleep(0.05)
    if worker_pid(root, number) is None:
        raise RuntimeError(f"The worker process ends as soon as it is started; {root / 'worker.log'} may say why.")
    raise TimeoutError


def _wait_for_end(root: Path, number: int, pid: int, until: float) -> None:
    """Wait for a worker that closed a connection to be gone, of which its lock is the last; else raise TimeoutError."""
    while worker_pid(root, number) == pid:
        if time.monotonic() >= until:
            raise TimeoutError
        time.sleep(0.01)


def line(content: Any) -> bytes:
    """Write what is said, which is a line."""
    return json.dumps(content).encode() + b"\n"


SUPERSEDED = line({"superseded": True})


def send(connection: socket.socket, said: bytes, until: float) -> None:
    """Send a line; raises TimeoutError at `until`."""
    connection.settimeout(max(until - time.monotonic(), 0.001))
    connection.sendall(said)


def received(connection: socket.socket, until: float) -> bytes:
    """Receive a line; raises TimeoutError at `until`, EOFError where it ends early, ValueError where it is too long."""
    return next(lines(connection, until))


def lines(connection: socket.socket, until: float) -> Iterator[bytes]:
    """Receive line after line; raises as `received`."""
    received = bytearray()
    while True:
        connection.settimeout(max(until - time.monotonic(), 0.001))
        part = connection.recv(1 << 16)
        if not part:
            raise EOFError
        received += part
        if b"\n" in part:
            *whole, rest = received.split(b"\n")
            yield from map(bytes, whole)
            received = rest
        if len(received) > LONGEST:
            raise ValueError
