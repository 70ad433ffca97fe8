"""Short names for contents, so that a result is never shown for a changed input."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.checkpoints.header import TensorInfo
from nmerge_core.checkpoints.pickled import reader
from nmerge_core.errors import InputError

Stamp = tuple[int, int, int]  # of a file: inode, size, time of the last change in ns

_WHOLE_BYTES = 64 << 20  # files up to this size are read whole
_SAMPLE_BYTES = 1024  # of the start, middle and end of every tensor of a larger file


def fingerprint(checkpoint: Checkpoint) -> str:
    """Return 16 hex digits of a checkpoint's configuration, headers and sampled weight bytes, wherever it lies.

    An adapter counts with its weights, scales and orientations; what is computed, with all that decides it.
    """
    digest = hashlib.sha256(repr(sorted(checkpoint.config.items())).encode())
    if checkpoint.adapter:
        digest.update(checkpoint.adapter.settings.encode())
    for computation in checkpoint.computations:
        digest.update(computation.key.encode())
    digest.update(fingerprint_weights(checkpoint.files).encode())
    return digest.hexdigest()[:16]


def fingerprint_weights(files: Iterable[Path]) -> str:
    """Return a digest of weight files, of large ones by their headers and samples of every tensor."""
    digest = hashlib.sha256()
    for file in files:
        with _readable(file):
            status = file.stat()
            digest.update(_weights_digest(file.resolve(), status.st_size, status.st_mtime_ns, reader(file)).encode())
    return digest.hexdigest()


def fingerprint_files(files: Iterable[Path]) -> str:
    """Return 16 hex digits of the whole contents of files and their names, counted from the folder that holds all."""
    digest, ordered = hashlib.sha256(), sorted(files)
    folder = os.path.commonpath([file.parent for file in ordered]) if ordered else ""
    for file in ordered:
        with _readable(file), file.open("rb") as content:
            own = hashlib.file_digest(content, "sha256").digest()
        digest.update(os.fsencode(file.relative_to(folder)) + b"\0" + own)
    return digest.hexdigest()[:16]


def stamps(checkpoints: Iterable[Checkpoint]) -> dict[Path, Stamp]:
    """Return what changes when a weight file is replaced or written to; raises InputError where one is gone."""
    found = {}
    for file in (file for checkpoint in checkpoints for file in checkpoint.files):
        with _readable(file):
            status = file.stat()
        found[file] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Say in a sentence what keeps a file that was there from being read."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); was it moved while it was in use?") from error


@lru_cache(maxsize=4096)
def _weights_digest(file: Path, size: int, modified: int, read: Callable[[Path], dict[str, TensorInfo]]) -> str:
    """Digest a weight file; `modified` is there to make the cache forget a rewritten file."""
    if size <= _WHOLE_BYTES:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    digest = hashlib.sha256(str(size).encode())
    descriptor = os.open(file, os.O_RDONLY)
    try:
        for tensor in read(file).values():
            digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape} {tensor.offset}".encode())
            last = max(tensor.bytes - _SAMPLE_BYTES, 0)
            for position in (0, last // 2, last):
                digest.update(os.pread(descriptor, min(_SAMPLE_BYTES, tensor.bytes), tensor.offset + position))
    finally:
        os.close(descriptor)
    return digest.hexdigest()
