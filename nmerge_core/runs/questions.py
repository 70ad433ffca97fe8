"""Short questions to the worker: a line of JSON each way over a Unix socket, whose address cache/worker.json tells."""

import hmac
import json
import logging
import os
import queue
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nmerge_core.errors import InputError
from nmerge_core.kept_files import Damaged, read_object, reading, typed, write_json
from nmerge_core.places import PACKAGE
from nmerge_core.runs.failure import sentence
from nmerge_core.runs.lock import worker_pid
from nmerge_core.version import __version__

Questions = Mapping[str, Callable[..., Any]]
_LONGEST = 16 << 20  # bytes of a question, or of an answer
_SAYING = 5.0  # seconds in which a client has to say what it asks
_AT_ONCE = 64  # clients that are heard


@dataclass(frozen=True)
class Address:
    """What worker.json has: the process, its socket, the key that shows who could read this, and what it runs."""

    pid: int
    address: str
    key: str
    version: str = __version__
    package: str = str(PACKAGE)


@dataclass(frozen=True)
class Question:
    """What is asked; nobody waits for an answer after `until`, in seconds of the machine's monotonic clock."""

    question: str
    arguments: dict[str, Any]
    until: float
    key: str


class QuestionServer:
    """The worker's end: each client is heard by a thread of its own, the main thread answers when it has a moment."""

    def __init__(self, root: Path, questions: Questions) -> None:
        """Listen, and leave the address and the key where only this user can read them."""
        self._root, self._questions = root, questions
        self._waiting: queue.Queue[tuple[Question, Future[bytes]]] = queue.Queue()
        # a socket's path may have 107 characters, a cache's may have more: the socket is in a temporary folder, which
        # is this user's alone
        self._folder = tempfile.TemporaryDirectory(prefix="nmerge-")
        address = str(Path(self._folder.name) / "questions")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(address)
        os.chmod(address, 0o600)
        self._listener.listen(_AT_ONCE)
        self._address = Address(os.getpid(), address, secrets.token_hex(32))
        self._tell()
        threading.Thread(target=self._listen, daemon=True).start()

    def _tell(self) -> None:
        """Write worker.json unless it tells of this worker, or the cache is another's since."""
        if address_at(self._root) != self._address and worker_pid(self._root) == self._address.pid:
            with suppress(OSError):  # the disk is full, or the cache was deleted
                write_json(self._root / "worker.json", asdict(self._address), mode=0o600)

    def _listen(self) -> None:
        heard = threading.BoundedSemaphore(_AT_ONCE)
        while True:
            heard.acquire()
            try:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._hear, args=(connection, heard), daemon=True).start()
            except (OSError, RuntimeError):  # no more files or threads at the moment
                heard.release()
                time.sleep(0.1)

    def _hear(self, connection: socket.socket, heard: threading.BoundedSemaphore) -> None:
        """Hear one client's question and send it the answer; one who is not ours, or not done in time, gets none."""
        with connection:
            try:
                content = json.loads(_received(connection, time.monotonic() + _SAYING))
                asked = typed(Question, content)
                if not hmac.compare_digest(asked.key.encode(), self._address.key.encode()):
                    return
                answer: Future[bytes] = Future()
                self._waiting.put((asked, answer))
                reply = answer.result(asked.until - time.monotonic())
                _send(connection, reply, asked.until)
            except Exception:  # whatever a stranger may send
                logging.debug("a client was not answered", exc_info=True)
            finally:
                heard.release()

    def answer(self, wait: float = 0.0) -> bool:
        """Answer every waiting question, waiting up to `wait` seconds for a first one; tell whether there was any."""
        self._tell()
        answered = False
        while True:
            try:
                asked, answer = self._waiting.get(timeout=0.0 if answered else wait)
            except queue.Empty:
                return answered
            answered = True
            if time.monotonic() < asked.until:  # else nobody waits for this answer any more
                answer.set_result(self._reply(asked))

    def _reply(self, asked: Question) -> bytes:
        try:
            return _line({"answer": self._questions[asked.question](**asked.arguments)})
        except InputError as error:
            return _line({"input_error": str(error)})
        except Exception as error:
            logging.exception("question %s failed", asked.question)
            return _line({"failure": sentence(error)})


def address_at(root: Path) -> Address | None:
    """Return what worker.json of a cache says; None where there is none that a worker wrote."""
    file = root / "worker.json"
    try:
        with reading(file):
            return typed(Address, read_object(file))
    except Damaged:
        return None


def outdated(root: Path) -> bool:
    """Tell whether the living worker of this cache runs other code than this process: it began before an update."""
    told = address_at(root)  # none while it is starting
    here = (__version__, str(PACKAGE))
    return told is not None and told.pid == worker_pid(root) and (told.version, told.package) != here


def ask_worker(root: Path, question: str, arguments: Mapping[str, Any], timeout: float) -> Any:
    """Ask the worker of this cache and return its answer.

    Raises:
        InputError: The question's input is wrong, as the worker found.
        TimeoutError: No answer within `timeout` seconds; the message says that the worker is busy.
        RuntimeError: The worker failed or stopped; the message is a sentence for the user.
    """
    until = time.monotonic() + timeout
    try:
        connection, key = _connected(root, until)
        with connection:
            line = _line(asdict(Question(question, dict(arguments), until, key)))
            if len(line) > _LONGEST:
                raise InputError(f"expected at most {_LONGEST >> 20} MB of text, found more; shorten it")
            _send(connection, line, until)
            reply = json.loads(_received(connection, until))
    except (TimeoutError, EOFError, ConnectionError) as error:
        if isinstance(error, TimeoutError) or time.monotonic() >= until:
            raise TimeoutError(
                f"The worker did not answer within {timeout:.0f} seconds: it is busy. Try again in a moment."
            ) from error
        raise RuntimeError("The worker process stopped while it was answering (killed, or out of memory).") from error
    if "input_error" in reply:
        raise InputError(reply["input_error"])
    if "failure" in reply:
        raise RuntimeError(reply["failure"])
    return reply["answer"]


def _connected(root: Path, until: float) -> tuple[socket.socket, str]:
    """Connect to the worker of a cache once it is there; return its key too. Raises TimeoutError where it is not."""
    while (left := until - time.monotonic()) > 0:
        told = address_at(root)
        if told is not None and told.pid == worker_pid(root):
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(left)
            try:
                connection.connect(told.address)
                return connection, told.key
            except (FileNotFoundError, ConnectionError, BlockingIOError):  # it has just stopped, or many ask at once
                connection.close()
        time.sleep(0.05)
    raise TimeoutError


def _line(content: Any) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _send(connection: socket.socket, line: bytes, until: float) -> None:
    connection.settimeout(max(until - time.monotonic(), 0.001))
    connection.sendall(line)


def _received(connection: socket.socket, until: float) -> bytes:
    """Receive a line; raises TimeoutError at `until`, EOFError where it ends early, ValueError where it is too long."""
    received = bytearray()
    while not received.endswith(b"\n"):
        connection.settimeout(max(until - time.monotonic(), 0.001))
        part = connection.recv(1 << 16)
        if not part:
            raise EOFError
        received += part
        if len(received) > _LONGEST:
            raise ValueError
    return bytes(received)
