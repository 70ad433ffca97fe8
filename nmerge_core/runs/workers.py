"""The workers of a cache: one for each accelerator of the host, what each sees of it, and which of them is asked."""

import hashlib
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from nmerge_core.errors import InputError, shown
from nmerge_core.machine import cores
from nmerge_core.places import child_environment
from nmerge_core.runs.lock import at_work, opened, stop_marker, worker_file

NUMBER = "NMERGE_WORKERS"
KEPT_SECONDS = 10 * 60.0  # that what was read for questions about a merge stays in memory after the last of them
_MOST = 64
_DEVICES = Path("/dev")  # where each GPU that this process may use has a file, in a container too


def accelerators() -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES calls the GPUs of this process, found without importing torch.

    There are none in it on a host whose GPUs are not NVIDIA's; one worker sees them all there.
    """
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        named = takewhile(lambda name: name != "-1", map(str.strip, told.split(",")))  # CUDA reads no further
        return [name for name in named if name]
    here = [file for file in _DEVICES.glob("nvidia*") if re.fullmatch(r"nvidia\d+", file.name)]
    return [str(place) for place, _ in enumerate(here)]  # CUDA counts those that are here, whatever their files say


def count() -> int:
    """Return how many workers a cache may have here: NMERGE_WORKERS, else one for each accelerator, and one at least.

    Raises:
        InputError: NMERGE_WORKERS is no such number.
    """
    told = os.environ.get(NUMBER, "").strip()
    if not told:
        return min(max(len(accelerators()), 1), _MOST)
    if not (told.isdecimal() and 1 <= int(told[:9]) <= _MOST):
        raise InputError(
            f"environment variable {NUMBER}: expected a number of workers from 1 to {_MOST}, found {shown(told)}; "
            "change it, or leave it out for one worker per accelerator"
        )
    return int(told)


def share(number: int) -> list[str]:
    """Return the accelerators of one of several workers, which take turns at choosing; more workers share them."""
    every, among = accelerators(), count()
    return every[number - 1 :: among] or every[(number - 1) % len(every) :][:1] if every else []


def environment(number: int) -> dict[str, str]:
    """Return the environment of a worker: of several each sees its accelerators alone, and its share of the cores."""
    own, among = child_environment(), count()
    if among > 1:
        own[NUMBER] = str(among)  # which the worker could not count any more
        own.setdefault("OMP_NUM_THREADS", str(max(cores() // among, 1)))
        if accelerators():
            own["CUDA_VISIBLE_DEVICES"] = ",".join(share(number))
    return own


@dataclass(frozen=True)
class WorkerState:
    """What is known of a worker: `about` says what merge it was asked about, `asked` when, if that was lately."""

    number: int
    pid: int | None
    run: str
    leaving: bool
    about: str
    asked: float

    @property
    def free(self) -> bool:
        """Whether it waits for a run, and nobody for its answers."""
        return self.pid is not None and not (self.run or self.leaving or self.about)


def worker_at(root: Path, number: int) -> WorkerState:
    """Look what a worker is doing."""
    pid, run = at_work(root, number) or (None, "")
    about, asked = "", 0.0
    with suppress(OSError, UnicodeDecodeError):
        file = worker_file(root, "asked", number)
        asked = file.stat().st_mtime
        about = file.read_text() if abs(time.time() - asked) < KEPT_SECONDS else ""
    return WorkerState(number, pid, run, stop_marker(root, number).exists(), about, asked)


def workers(root: Path) -> list[WorkerState]:
    """Look what every worker that there may be is doing; raises InputError as `count`."""
    return [worker_at(root, number) for number in range(1, count() + 1)]


def who_does(root: Path, run: str) -> str:
    """Return which of several workers does a run, and on which accelerators; nothing where there is one, or none does.

    Raises:
        InputError: as `count`.
    """
    every = workers(root)
    number = next((worker.number for worker in every if worker.run == run), None)
    if number is None or len(every) == 1:
        return ""
    own = share(number)
    return f"worker {number} of {len(every)}" + (f" on GPU {', '.join(own)}" if own else "")


def subject(arguments: Mapping[str, Any]) -> str:
    """Return what tells the models that a question's recipe merges, without their base; nothing for other questions."""
    recipe = arguments.get("recipe")
    if not isinstance(recipe, Mapping):
        return ""
    models = [each.get("model") if isinstance(each, Mapping) else each for each in recipe.get("models") or ()]
    return " ".join(sorted({hashlib.sha256(str(model).encode()).hexdigest()[:16] for model in models}))


def choose(root: Path, about: str) -> int:
    """Return the number of the worker to ask: of those that do no run the one that was asked about the same models.

    The most of the same, as somebody may add one or leave one out. Where there is none, a question about a recipe goes
    to the one that was asked about others longest ago; any other question to the first. What a recipe merges is noted
    at the worker. A run that goes makes answers wait only where every worker has one.

    Raises:
        InputError: as `count`.
    """
    every = workers(root)
    idle = [worker for worker in every if not worker.run] or every
    if not about:
        return min(idle, key=lambda worker: (worker.pid is None, worker.number)).number

    def preference(worker: WorkerState) -> tuple[int, float, bool, int]:
        same = len({*worker.about.split()} & {*about.split()})
        last = worker.asked if worker.about else 0.0
        return -same, -last if same else last, worker.pid is None, worker.number

    chosen = min(idle, key=preference)
    with suppress(OSError):  # the disk is full: the next question may go to another
        note = worker_file(root, "asked", chosen.number)
        if chosen.about == about:
            os.utime(note)
        else:
            with opened(note, "wb") as file:
                file.write(about.encode())
    return chosen.number
