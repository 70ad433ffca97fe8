"""Short questions to the worker: JSON messages over a Unix socket, of which cache/worker.json tells the address."""

import json
import logging
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from nmerge_core.errors import InputError
from nmerge_core.places import PACKAGE
from nmerge_core.runs.failure import sentence
from nmerge_core.runs.lock import worker_pid
from nmerge_core.version import __version__

Questions = Mapping[str, Callable[..., Any]]
CODE = {"version": __version__, "package": str(PACKAGE)}  # what this process runs, as worker.json has it


class QuestionServer:
    """The worker's end: a thread collects the questions, the main thread answers them when it has a moment."""

    def __init__(self, root: Path, questions: Questions) -> None:
        """Listen, and leave the address and the key where only this user can read them."""
        self._questions = questions
        self._waiting: queue.Queue[tuple[Connection, dict[str, Any]]] = queue.Queue()
        key = secrets.token_bytes(32)
        # a socket's path may have 107 characters, a cache's may have more: the socket is in a temporary folder
        self._listener = Listener(family="AF_UNIX", authkey=key)
        described = {"pid": os.getpid(), "address": self._listener.address, "key": key.hex(), **CODE}
        temporary = root / f".worker.json.{secrets.token_hex(4)}"
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(described, file)
        os.replace(temporary, root / "worker.json")
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
                self._waiting.put((connection, json.loads(connection.recv_bytes())))
            except (AuthenticationError, EOFError, OSError, ValueError):  # the client went away or is not ours
                continue

    def answer(self, wait: float = 0.0) -> bool:
        """Answer every waiting question, waiting up to `wait` seconds for a first one; tell whether there was any."""
        answered = False
        while True:
            try:
                connection, asked = self._waiting.get(timeout=0.0 if answered else wait)
            except queue.Empty:
                return answered
            answered = True
            if time.time() > asked["until"]:  # nobody waits for this answer any more
                connection.close()
                continue
            with connection:
                try:
                    connection.send_bytes(json.dumps(self._reply(asked)).encode())
                except OSError:
                    logging.info("the client of %s went away", asked["question"])

    def _reply(self, asked: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"answer": self._questions[asked["question"]](**asked["arguments"])}
        except InputError as error:
            return {"input_error": str(error)}
        except Exception as error:
            logging.exception("question %s failed", asked["question"])
            return {"failure": sentence(error)}


def outdated(root: Path) -> bool:
    """Tell whether the living worker of this cache runs other code than this process: it began before an update."""
    try:
        described = json.loads((root / "worker.json").read_text(encoding="utf-8"))
    except FileNotFoundError:  # it is starting
        return False
    return described["pid"] == worker_pid(root) and any(described.get(name) != CODE[name] for name in CODE)


def ask_worker(root: Path, question: str, arguments: Mapping[str, Any], timeout: float) -> Any:
    """Ask the worker of this cache and return its answer.

    Raises:
        InputError: The question's input is wrong, as the worker found.
        TimeoutError: No answer within `timeout` seconds; the message says that the worker is busy.
        RuntimeError: The worker failed or stopped; the message is a sentence for the user.
    """
    until = time.time() + timeout
    busy = f"The worker did not answer within {timeout:.0f} seconds: it is busy. Try again in a moment."
    with _connect(root, until, busy) as connection:
        asked = {"question": question, "arguments": dict(arguments), "until": until}
        try:
            connection.send_bytes(json.dumps(asked).encode())
            if not connection.poll(max(until - time.time(), 0)):
                raise TimeoutError(busy)
            reply = json.loads(connection.recv_bytes())
        except (EOFError, ConnectionError) as error:
            raise RuntimeError(
                "The worker process stopped while it was answering (killed, or out of memory)."
            ) from error
    if "input_error" in reply:
        raise InputError(reply["input_error"])
    if "failure" in reply:
        raise RuntimeError(reply["failure"])
    return reply["answer"]


def _connect(root: Path, until: float, busy: str) -> Connection:
    while time.time() < until:
        try:
            described = json.loads((root / "worker.json").read_text(encoding="utf-8"))
            if described["pid"] == worker_pid(root):
                return Client(described["address"], family="AF_UNIX", authkey=bytes.fromhex(described["key"]))
        except (FileNotFoundError, ConnectionError, EOFError):  # it is starting, or has just stopped
            pass
        time.sleep(0.05)
    raise TimeoutError(busy)
