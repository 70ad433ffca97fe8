"""The worker's end of short questions: who is heard, what is answered in which order, and what nobody waits for."""

import hmac
import json
import logging
import os
import queue
import secrets
import select
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nmerge_core.errors import InputError
from nmerge_core.files.kept_files import typed, write_json
from nmerge_core.runs.failure import sentence
from nmerge_core.runs.lock import worker_file, worker_pid
from nmerge_core.runs.questions import SUPERSEDED, Address, Question, Superseded, address_at, line, received, send
from nmerge_core.runs.workers import subject

Questions = Mapping[str, Callable[..., Any]]
_SAYING = 5.0  # seconds in which a client has to say what it asks
_AT_ONCE = 64  # clients that are heard
_TELLING = 0.25  # seconds between reports of progress
_PREFIX, _SOCKET = "nmerge-", "questions"  # of the temporary folder that a worker listens in, and in it


def clear_after_killed(root: Path, number: int) -> None:
    """Remove the socket that a killed worker left in its temporary folder."""
    left = address_at(root, number)
    path = Path(left.address if left else "")
    if path.name == _SOCKET and path.parent.name.startswith(_PREFIX):
        with suppress(OSError):  # it is gone, or another's
            path.unlink()
            path.parent.rmdir()


class QuestionServer:
    """The worker's end: each client is heard by a thread of its own, the main thread answers when it has a moment."""

    def __init__(self, root: Path, questions: Questions, number: int = 1) -> None:
        """Listen, and leave the address and the key where only this user can read them."""
        self._root, self._questions, self._number = root, questions, number
        self._newest: dict[tuple[str, str], Future[bytes]] = {}  # the answer that each session waits for
        self._clients: dict[Future[bytes], tuple[Question, socket.socket]] = {}  # who waits for each answer
        self._lock = threading.Lock()
        self._told = "", 0.0  # the stage that was reported last and when, on the machine's monotonic clock
        self._waiting: queue.Queue[tuple[Question, Future[bytes]]] = queue.Queue()
        # a socket's path may have 107 characters, a cache's may have more: the socket is in a temporary folder, which
        # is this user's alone
        self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX)
        address = str(Path(self._folder.name) / _SOCKET)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(address)
        os.chmod(address, 0o600)
        self._listener.listen(_AT_ONCE)
        self._address = Address(os.getpid(), address, secrets.token_hex(32))
        self._tell()
        threading.Thread(target=self._listen, daemon=True).start()

    def _tell(self) -> None:
        """Write worker.json unless it tells of this worker, or the cache is another's since."""
        told = address_at(self._root, self._number)
        if told != self._address and worker_pid(self._root, self._number) == self._address.pid:
            with suppress(OSError):  # the disk is full, or the cache was deleted
                write_json(worker_file(self._root, "json", self._number), asdict(self._address), mode=0o600)

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
                content = json.loads(received(connection, time.monotonic() + _SAYING))
                asked = typed(Question, content)
                if not hmac.compare_digest(asked.key.encode(), self._address.key.encode()):
                    return
                answer: Future[bytes] = Future()
                # A session that asks anew waits for that before its older question is no longer the newest.
                with self._waiting_for(answer, asked, connection), self._newest_of(asked, answer):
                    self._waiting.put((asked, answer))
                    try:
                        reply = answer.result(asked.until - time.monotonic())
                    except CancelledError:
                        reply = SUPERSEDED
                send(connection, reply, asked.until)
            except Exception:  # whatever a stranger may send
                logging.debug("a client was not answered", exc_info=True)
            finally:
                heard.release()

    @contextmanager
    def _newest_of(self, asked: Question, answer: "Future[bytes]") -> Iterator[None]:
        """Have a session wait for this answer, and no longer for one to the question of this name that it asked before.

        That is dropped where it still waits; where its answer is being found, `heed` ends that.
        """
        by = asked.session, asked.question
        if asked.session:
            with self._lock:
                before, self._newest[by] = self._newest.get(by), answer
            if before is not None:
                before.cancel()
        try:
            yield
        finally:
            with self._lock:
                if self._newest.get(by) is answer:
                    del self._newest[by]

    @contextmanager
    def _waiting_for(self, answer: "Future[bytes]", asked: Question, connection: socket.socket) -> Iterator[None]:
        """Have a client hear of progress until its answer is there."""
        with self._lock:
            self._clients[answer] = asked, connection
        try:
            yield
        finally:
            with self._lock:
                self._clients.pop(answer, None)

    def report(self, stage: str, done: float, total: float, unit: str) -> None:
        """Tell everybody who waits what is being done; who hears no more waits no more."""
        now = time.monotonic()
        if stage == self._told[0] and now - self._told[1] < _TELLING:
            return
        self._told = stage, now
        said = line({"progress": [stage, done, total, unit]})
        with self._lock:
            for answer, (_, connection) in [*self._clients.items()]:
                _, hears, _ = select.select([], [connection], [], 0)
                try:
                    if hears:
                        connection.sendall(said)
                except OSError:
                    del self._clients[answer]

    def awaits(self, answer: "Future[bytes]", asked: Question) -> bool:
        """Tell whether somebody waits for this answer, and not for a newer one in its place."""
        return self._is_newest(answer, asked) and answer in self._clients and time.monotonic() < asked.until

    def awaits_models(self, asked: Question) -> bool:
        """Tell whether the session that asked this still waits for any answer about a merge of the same models."""
        about = subject(asked.arguments)
        with self._lock:
            own = [each for each in self._clients.items() if each[1][0].session == asked.session]
        return any(subject(other.arguments) == about and self._is_newest(answer, other) for answer, (other, _) in own)

    def _is_newest(self, answer: "Future[bytes]", asked: Question) -> bool:
        return self._newest.get((asked.session, asked.question), answer) is answer

    def answer(self, wait: float = 0.0) -> bool:
        """Answer what has waited longest, waiting up to `wait` seconds for a question; tell whether there was any.

        One at a time, so that many cannot keep a run from its turn.
        """
        self._tell()
        try:
            asked, answer = self._waiting.get(timeout=wait)
        except queue.Empty:
            return False
        if time.monotonic() < asked.until and answer.set_running_or_notify_cancel():  # else nobody waits for it
            answer.set_result(self._reply(asked, answer))
        return True

    def _reply(self, asked: Question, answer: "Future[bytes]") -> bytes:
        told = _asker.set(_Asker(self, asked, answer))
        try:
            return line({"answer": self._questions[asked.question](**asked.arguments)})
        except Superseded:
            return SUPERSEDED
        except InputError as error:
            return line({"input_error": str(error)})
        except Exception as error:
            logging.exception("question %s failed", asked.question)
            return line({"failure": sentence(error)})
        finally:
            _asker.reset(told)


@dataclass(frozen=True)
class _Asker:
    """Whose question is being answered."""

    server: QuestionServer
    asked: Question
    answer: "Future[bytes]"


_asker: ContextVar[_Asker | None] = ContextVar("asker", default=None)  # none outside of a worker


def heed(stage: str, done: float, total: float, unit: str = "") -> None:
    """Be the progress of what a question does: raise Superseded where nobody waits for its answer any more."""
    if asker := _asker.get():
        asker.server.report(stage, done, total, unit)
        if not asker.server.awaits(asker.answer, asker.asked):
            raise Superseded


def heed_models(stage: str, done: float, total: float, unit: str = "") -> None:
    """Be the progress of what a newer question of the same session about the same models needs too.

    It is not left for that; for one about other models it is.
    """
    if asker := _asker.get():
        asker.server.report(stage, done, total, unit)
        if not asker.server.awaits_models(asker.asked):
            raise Superseded
