"""The journal of a merge: which tensors are on the disk for certain, over a kill or a power cut."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nmerge_core.checkpoints.header import TensorInfo

JOURNAL = "journal"
FLUSH_SECONDS = 2.0  # how often finished tensors are flushed: what a killed merge has to do again


def journaled(staging: Path) -> set[str]:
    """Return the names of the tensors whose bytes are on the disk."""
    lines = [line for journal in staging.glob(f"{JOURNAL}*") for line in journal.read_bytes().split(b"\n")[:-1]]
    return {line.decode() for line in lines}


@contextmanager
def journal_of(staging: Path, rank: int) -> Iterator[Callable[[TensorInfo], None]]:
    """Give a function that notes that a tensor was written; the notes reach the disk after the bytes, in batches."""
    file = staging / (f"{JOURNAL}.{rank}" if rank else JOURNAL)
    with file.open("a+b") as journal:
        journal.seek(0)
        journal.truncate(journal.read().rfind(b"\n") + 1)  # a kill may have cut the last line
        written: list[TensorInfo] = []
        flushed = time.monotonic()

        def settle() -> None:
            flush({tensor.file for tensor in written})
            journal.write("".join(f"{tensor.name}\n" for tensor in written).encode())
            journal.flush()
            os.fsync(journal.fileno())
            written.clear()

        def note(tensor: TensorInfo) -> None:
            nonlocal flushed
            written.append(tensor)
            if time.monotonic() - flushed > FLUSH_SECONDS:
                settle()
                flushed = time.monotonic()

        try:
            yield note
        finally:
            settle()


def flush(paths: Iterable[Path]) -> None:
    """Wait until files, or the lists of names in folders, are on the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
