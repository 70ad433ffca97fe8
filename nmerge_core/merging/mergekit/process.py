"""The process that mergekit runs in, seen from here: what it plans, how far it is, and that it ends."""

import json
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from nmerge_core.errors import InputError
from nmerge_core.places import child_environment
from nmerge_core.progress import Progress

_BAR = re.compile(r"Executing graph:\s+\d+%.*\| (\d+)/(\d+) ")  # tqdm's, of mergekit's one long loop
# No network, no order by chance, and pickles of a model are never run, whatever is set outside.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0"}
ENVIRONMENT |= {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "0"}
CHILD = (sys.executable, "-P", "-m", "nmerge_core.merging.mergekit.child")
_LINES = 200  # of mergekit's output that are kept for its failure
_LOOK_SECONDS = 0.2  # between reports of progress, where a cancel is heeded


@dataclass(frozen=True)
class Plan:
    """What mergekit will do, told from headers; sizes in bytes, tokens that a tokenizer adds not among them."""

    tensors: int
    parameters: int
    bytes_read: int
    bytes_written: int
    warnings: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """What a terminal shows."""
        return [
            f"tensors       {self.tensors:>10,}",
            f"parameters    {self.parameters:>10,}",
            f"reads         {self.bytes_read / 1e6:>10,.1f} MB",
            f"writes        {self.bytes_written / 1e6:>10,.1f} MB",
        ]


class MergekitProcess:
    """A process of `mergekit_child`; `plan` is there once it was started."""

    plan: Plan

    def __init__(self, part: Path, progress: Progress) -> None:
        """Launch it for a merge into the folder `part`."""
        self.part, self._progress = part, progress
        self._process = subprocess.Popen(
            CHILD,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # an interrupt of the terminal is ours to pass on
            env=child_environment() | ENVIRONMENT,
        )
        self._stage: tuple[str, float, float, str] = ("Planning in mergekit", 0, 1, "")
        self._answers: SimpleQueue[str] = SimpleQueue()
        self._printed: deque[str] = deque(maxlen=_LINES)
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_answers, self._read_output)]
        for reader in self._readers:
            reader.start()

    def start(self, content: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """Have mergekit plan; raises InputError where the recipe or the models are wrong."""
        self._send({"content": content, "options": options, "out": str(self.part)})
        self.plan = Plan(**self._answer())

    def merge(self) -> int:
        """Let the planned merge go on to its end; return the peak memory of the process in bytes."""
        self._stage = ("Merging in mergekit", 0, 1, "steps")
        self._send({"go": True})
        peak: int = self._answer()["peak_memory"]
        _, _, total, unit = self._stage
        self._progress("Merging in mergekit", total, total, unit)
        return peak

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        for reader in self._readers:
            reader.join()
        with self._process:  # waits for it, and closes its pipes
            pass

    def _send(self, content: dict[str, Any]) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(content) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # it failed early, as its answer says
            pass

    def _answer(self) -> dict[str, Any]:
        while True:
            self._progress(*self._stage)
            try:
                line = self._answers.get(timeout=_LOOK_SECONDS)
            except Empty:
                continue
            if not line:
                raise self._failure()
            answer: dict[str, Any] = json.loads(line)
            if "error" in answer:
                raise InputError(f"recipe (mergekit): {answer['error']}")
            return answer

    def _read_answers(self) -> None:
        for line in self._process.stdout or ():
            self._answers.put(line)
        self._answers.put("")

    def _read_output(self) -> None:
        for line in self._process.stderr or ():  # text mode ends a line at tqdm's carriage return too
            if bar := _BAR.search(line):
                done, total = int(bar[1]), int(bar[2])
                # The last step counts when the process has ended: files are written after the loop.
                self._stage = ("Merging in mergekit", min(done, total - 1), total, "steps")
            elif line.strip():
                self._printed.append(line)

    def _failure(self) -> Exception:
        status = self._process.wait()
        self._readers[1].join()
        printed = "".join(self._printed)
        if "No space left on device" in printed:
            return InputError(f"{self.part.parent}: the disk is full; nothing was left there")
        if status < 0:
            return RuntimeError(f"mergekit was killed by signal {-status}, most likely for lack of memory\n{printed}")
        last = self._printed[-1].strip() if self._printed else f"exit status {status}"
        return RuntimeError(f"mergekit failed: {last}\n{printed}")
