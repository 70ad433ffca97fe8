"""The folder of a merge in progress, `.OUT.part` beside OUT: one merge at a time, kept over a kill, at last renamed.

A kill at any moment, or a machine that loses its power, leaves either no OUT or the whole of it. Where the power goes,
what the journal says is true all the same: a tensor is in it only after its bytes were flushed to the disk.
"""

import errno
import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from nmerge_core.checkpoints.writer import Layout, create_files
from nmerge_core.errors import DISK_ERRORS, InputError
from nmerge_core.merging.write.journal import JOURNAL, flush

# What a disk, or whoever moves folders on it, can do to a merge: wrong surroundings, no failure of ours.
_DISK = DISK_ERRORS | {errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EIO, errno.ESTALE}
_DISK |= {errno.ENOTEMPTY, errno.EEXIST}


def staging_folder(out: Path) -> Path:
    """Return the folder of the work in progress."""
    return out.absolute().parent / f".{out.name}.part"


@contextmanager
def lock_output(out: Path) -> Iterator[None]:
    """Be the only merge into `out`; the kernel frees the lock however the process ends.

    Where the disk fails or the input is wrong, what this process began is removed; what an earlier one had finished
    stays, for the same command to go on with once the reason is gone.

    Raises:
        InputError: another process merges into `out`, or just did, or the disk cannot be written.
    """
    staging, file = staging_folder(out), out.absolute().parent / f".{out.name}.lock"
    with disk_errors(out):
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(file)
    if lock is None:
        owner = file.read_text(encoding="utf-8") if file.exists() else ""
        raise InputError(f"{out}: {owner or 'another process'} is merging into it; wait for it, or name another folder")
    earlier = staging.exists()
    try:
        if out.exists():
            raise InputError(f"{out}: another process has just finished it; name another folder or remove it")
        with disk_errors(out):
            yield
    except InputError:
        if not earlier:
            discard(staging)
        raise
    finally:
        with suppress(OSError):
            file.unlink()
        lock.close()


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Say in a sentence what the disk did to a merge into `out`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        where = f": {error.filename}" if error.filename else ""
        raise InputError(
            f"{out}: writing failed ({error.strerror}{where}); nothing was left there. Check that the disk has room "
            "and can be written, and run the merge again"
        ) from error


def _lock(file: Path) -> IO[str] | None:
    """Lock a file and write who did; None where another process has it."""
    while True:
        lock = file.open("a", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        # Whoever had it may have removed the file since it was opened here: a lock on that one would keep nobody out.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), file.stat()):
                lock.truncate(0)
                lock.write(f"process {os.getpid()} on {socket.gethostname()}")
                lock.flush()
                return lock
        lock.close()


def open_staging(staging: Path, layout: Layout, identity: str) -> None:
    """Make the folder with all its space, or take over what the same merge left; `identity` tells the same one."""
    journal = staging / JOURNAL
    with suppress(FileNotFoundError):
        whole = all(file.exists() and file.stat().st_size == size for file, size in layout.sizes.items())
        if whole and journal.read_text(encoding="utf-8").startswith(f"{identity}\n"):
            for left in staging.iterdir():  # what the end of the merge writes, from models as they were then
                if left not in layout.sizes and not left.name.startswith(JOURNAL):
                    _remove(left)
            return
    discard(staging)
    staging.mkdir(parents=True)
    create_files(layout)
    flush(layout.sizes)  # the headers
    journal.write_text(f"{identity}\n", encoding="utf-8")
    flush([journal, staging])


def discard(staging: Path) -> None:
    """Remove the folder, and first the journal: nobody may go on from what is left when this is killed."""
    with suppress(OSError):
        (staging / JOURNAL).unlink()
    shutil.rmtree(staging, ignore_errors=True)


def publish(staging: Path, out: Path) -> None:
    """Flush all that the folder holds, and rename it."""
    for journal in sorted(staging.glob(f"{JOURNAL}*"), reverse=True):
        journal.unlink()
    flush(path for path in (*staging.rglob("*"), staging))
    os.replace(staging, out)
    flush([out.absolute().parent])


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
