"""A real worker with operations that only count: `python -m tests.runs.counting_worker CACHE NUMBER`."""

import os
import sys
import time
from pathlib import Path

from nmerge_core.errors import InputError
from nmerge_core.parameters.inputs import File
from nmerge_core.parameters.values import Number, Text
from nmerge_core.runs.kinds import KINDS, Kind
from nmerge_core.runs.lock import hold_worker_lock
from nmerge_core.runs.worker import Worker

_NUMBERS = (Number(name="steps", default=3, help="", whole=True), Number(name="seconds", default=0.0, help=""))
_TEXTS = tuple(Text(name=name, help="") for name in ("until", "fail", "name"))
_PARAMETERS = (*_NUMBERS, *_TEXTS, File(name="file", help=""))
COUNTED = {
    "count": Kind("count", "counts", _PARAMETERS),
    "merge": Kind("merge", "counts on", _PARAMETERS, resumable=True),
}


def count(parameters, results, progress):
    (results / "begun").touch()
    for step in range(parameters["steps"]):
        progress("counting", step, parameters["steps"], "steps")
        (results / "silent").touch()  # no question is answered from here to the next step
        time.sleep(parameters["seconds"])
    while parameters["until"] and not Path(parameters["until"]).exists():
        progress("waiting", 1, 2, "steps")
        time.sleep(0.01)
    if parameters["fail"] == "input":
        raise InputError("corpus/math.jsonl, line 17: not JSON")
    if parameters["fail"] == "memory":
        raise MemoryError
    if parameters["fail"] == "bug":
        raise ZeroDivisionError("division by zero")
    (results / "count.txt").write_text(str(parameters["steps"]))


def double(number):
    if number < 0:
        raise InputError(f"number {number}: expected 0 or more")
    return 2 * number


def who(recipe=None):
    return {"pid": os.getpid()} | {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}


def rest(until, recipe=None):
    Path(f"{until}-{os.getpid()}").touch()
    while not Path(until).exists():
        time.sleep(0.01)
    return os.getpid()


def nap(seconds):
    time.sleep(seconds)


if __name__ == "__main__":
    if os.fork():
        os._exit(0)
    os.setsid()
    root, number = Path(sys.argv[1]), int(sys.argv[2])
    lock = hold_worker_lock(root, number)
    if lock is not None:
        KINDS.update(COUNTED)  # type: ignore[attr-defined]  # a dict
        idle = float(os.environ.get("COUNTING_IDLE", "60"))
        questions = {each.__name__: each for each in (double, who, rest, nap)}
        Worker(root, lock, {"count": count, "merge": count}, questions, number).serve(idle)
