"""The processes of one merge, on one machine or on several that share a file system, and which tensors are whose.

`accelerate launch` or torchrun starts them; a merge of one process is a group of one. The first process prepares,
leaves what it found in the folder of the work in progress, waits for the others, and makes OUT. Each merges its own
tensors into that folder. All give a sign of life a second, through the store by which the launcher lets processes find
each other; where one falls silent the rest end, and the folder waits for the same command.
"""

import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from nmerge_core import distributed
from nmerge_core.checkpoints.writer import Layout
from nmerge_core.errors import ProcessLost
from nmerge_core.progress import Progress, silent

if TYPE_CHECKING:
    import torch.distributed as dist

PREPARED = "prepared"  # the file by which the first process tells the others what it found
_BEAT, _SILENCE = 1.0, 10.0  # seconds between signs of life, and without one until a process counts as lost
_POLL = 0.1  # seconds
_LEFT, _FAILED = b"left", b"failed"  # last signs
_numbers = count()


@contextmanager
def process_group() -> Iterator["ProcessGroup"]:
    """Work with the processes that were started together with this one."""
    rank, processes = distributed.join()
    if processes == 1:
        yield ProcessGroup(0, 1)
        return
    import torch.distributed as dist

    own = ProcessGroup(rank, processes, dist.PrefixStore(f"merge {next(_numbers)}", distributed.store()))
    watcher = Thread(target=own.watch)
    watcher.start()
    last = _FAILED
    try:
        yield own
        last = _LEFT
    finally:
        own.leaving.set()
        watcher.join()
        with suppress(RuntimeError):  # the store may be gone, with the process that kept it
            own.leave(last)


class ProcessGroup:
    """This process among those that merge; `first` leads them."""

    def __init__(self, rank: int, processes: int, store: "dist.Store | None" = None) -> None:
        """Be one of `processes`; `store` has a key of the signs of life of each, `ready <rank>`, `prepared`, `made`."""
        self.rank, self.processes = rank, processes
        self.first = rank == 0
        self.leaving = Event()
        self._store: Any = store
        self._others = [other for other in range(processes) if other != rank]
        self._lost: list[int] = []

    def shard(self, layout: Layout) -> list[str]:
        """Return the tensors that this process merges: whole files where there are enough, about equal bytes."""
        by_file = len(layout.sizes) >= self.processes
        units: dict[object, list[str]] = {}
        for name, tensor in layout.tensors.items():
            units.setdefault(tensor.file if by_file else name, []).append(name)
        sizes = {unit: sum(layout.tensors[name].bytes for name in names) for unit, names in units.items()}
        total, begin = max(1, sum(sizes.values())), 0
        own: list[str] = []
        for unit, names in units.items():
            if (2 * begin + sizes[unit]) * self.processes // (2 * total) == self.rank:  # by where its middle lies
                own += names
            begin += sizes[unit]
        return own

    def broadcast(self, folder: Path, find: Callable[[], Any]) -> Any:
        """Return on every process what `find` returns on the first, which makes `folder`."""
        if self.processes == 1:
            return find()
        if self.first:
            with distributed.alone():
                found = find()
            (folder / PREPARED).write_bytes(pickle.dumps(found))
            self._set("prepared")
            return found
        self._wait_for(["prepared"], silent)
        return pickle.loads((folder / PREPARED).read_bytes())

    def watched(self, progress: Progress) -> Progress:
        """Return a progress that the first process alone reports, and that raises ProcessLost when another ended."""
        reported = progress if self.first else silent

        def report(stage: str, done: float, total: float, unit: str = "") -> None:
            self._check()
            reported(stage, done, total, unit)

        return report

    def barrier(self, folder: Path, progress: Progress) -> None:
        """Let the first process go on when all are ready; the others then wait until it has made OUT of `folder`."""
        if self.processes > 1:
            self._set(f"ready {self.rank}")
            self._wait_for([f"ready {other}" for other in self._others] if self.first else ["made"], progress)
            if self.first:
                (folder / PREPARED).unlink()

    def release(self) -> None:
        """Let the others end, now that the first process has made OUT."""
        if self.first and self.processes > 1:
            self._set("made")

    def watch(self) -> None:
        """Give signs of life, and look for those of the others, until this process leaves."""
        seen = dict.fromkeys(self._others, (b"", time.monotonic()))
        try:
            for beat in count():
                self._store.set(str(self.rank), str(beat))
                for other in self._others:
                    sign, now = self._sign(other), time.monotonic()
                    if sign != seen[other][0]:
                        seen[other] = (sign, now)
                    if sign == _FAILED or (sign != _LEFT and now - seen[other][1] > _SILENCE):
                        self._lost.append(other)
                if self.leaving.wait(_BEAT):
                    return
        except RuntimeError:  # the store is gone, with the first process or the launcher that kept it
            self._lost.append(0)

    def leave(self, last: bytes) -> None:
        """Give the last sign; the first process, which may keep the store, goes after the others."""
        self._store.set(str(self.rank), last)
        until = time.monotonic() + _SILENCE
        while self.first and time.monotonic() < until:
            if all(self._sign(other) in (_LEFT, _FAILED) for other in self._others if other not in self._lost):
                return
            time.sleep(_POLL)

    def _sign(self, other: int) -> bytes:
        return self._store.get(str(other)) if self._store.check([str(other)]) else b""

    def _wait_for(self, keys: list[str], progress: Progress) -> None:
        while True:
            self._check()
            with self._store_kept():
                ready = sum(self._store.check([key]) for key in keys)
            if ready == len(keys):
                return
            progress("Waiting for the other processes", ready, len(keys), "processes")
            time.sleep(_POLL)

    def _set(self, key: str) -> None:
        with self._store_kept():
            self._store.set(key, b"")

    @contextmanager
    def _store_kept(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise self._loss(0) from error

    def _check(self) -> None:
        if self._lost:
            raise self._loss(self._lost[0])

    def _loss(self, lost: int) -> ProcessLost:
        return ProcessLost(
            f"process {lost} of {self.processes} ended before the merge did (its own message, if any, says why); the "
            "same command goes on where it stopped"
        )
