"""The trail of a search: what each of its points measured, kept as it comes, so that a killed search goes on."""

import fcntl
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from nmerge_core.cache import cache_root
from nmerge_core.errors import DISK_ERRORS, InputError
from nmerge_core.files.kept_files import digest
from nmerge_core.inputs import Places
from nmerge_core.machine import kind_of
from nmerge_core.merging.plan.context import Context


class Trail:
    """The points of a search in their order, each with the numbers that it measured: a line of a file for each.

    A search is a function of its seed and of what was measured: taken through the same points again it makes the same
    choices, and measures from the first point on that is missing.
    """

    def __init__(self, file: BinaryIO) -> None:
        """Read a file that is open for reading and appending, up to a line that a kill cut."""
        self._file, self._next = file, 0
        self._known: list[tuple[list[float], list[float], int]] = []  # the point, its numbers, where its line begins
        start = file.seek(0)
        for line in file:
            try:
                point, numbers = json.loads(line)
            except (ValueError, TypeError):
                break
            if not line.endswith(b"\n"):
                break
            self._known.append((point, numbers, start))
            start += len(line)
        file.truncate(start)

    def measured(self, point: Sequence[float], measure: Callable[[], list[float]]) -> list[float]:
        """Return what the search's next point measured: as it is kept, else by `measure`, and kept from now on."""
        if self._next < len(self._known):
            known, numbers, start = self._known[self._next]
            if known == list(point):
                self._next += 1
                return numbers
            del self._known[self._next :]  # of libraries that search otherwise
            self._file.truncate(start)
        numbers, start = measure(), self._file.seek(0, io.SEEK_END)
        self._known.append((list(point), numbers, start))
        self._file.write(json.dumps([list(point), numbers]).encode() + b"\n")
        self._file.flush()
        self._next += 1
        return numbers


@contextmanager
def trail_of(context: Context) -> Iterator[Trail]:
    """Yield the trail of a merge's search in the cache, or a new one while another process makes the same search.

    Raises:
        InputError: the disk is full.
    """
    file = trail_file(context)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with file.open("a+b") as kept:
            try:
                fcntl.flock(kept, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield Trail(io.BytesIO())
            else:
                yield Trail(kept)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise InputError(f"{file}: writing failed ({error.strerror}); make room on the disk of the cache") from error


def trail_file(context: Context) -> Path:
    """Return where the cache has the trail: its name tells all that decides a search, the content of what it reads."""
    recipe, read = context.recipe.in_full(Places(cache_root()))
    key = digest([recipe.yaml, read, context.place, kind_of(context.stream.device)])
    return cache_root() / "searches" / f"{recipe.merge_method}-{key}.jsonl"
