"""Files that are read whole, as no weights are in them: no more of them than there can be, and none that never ends."""

import os
import stat
from contextlib import suppress
from pathlib import Path

from nmerge_core.errors import InputError, short

_LFS_POINTER = b"version https://git-lfs"


def check_fetched(file: Path) -> None:
    """Raise InputError where a file is what Git leaves for one that it did not fetch; its reader tells other faults."""
    with suppress(OSError), open(file, "rb") as stream:
        _check_start(stream.read(len(_LFS_POINTER)), short(str(file)))


def _check_start(content: bytes, where: str) -> None:
    if content.startswith(_LFS_POINTER):
        raise InputError(f"{where}: a Git LFS pointer, not the file itself; run `git lfs pull` in its folder")


def read_small(file: Path, most: int) -> bytes:
    """Return what a file holds.

    Raises:
        InputError: it is missing, no regular file, larger than `most` bytes, a pointer of Git LFS, or cannot be read.
    """
    where = short(str(file))
    try:
        status = os.stat(file)
        if not stat.S_ISREG(status.st_mode):
            found = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or a pipe"
            raise InputError(f"{where}: expected a file, found {found}")
        if status.st_size <= most:
            with open(file, "rb") as stream:
                content = stream.read(most + 1)  # files of /proc tell no size
            if len(content) <= most:
                _check_start(content, where)
                return content
        raise InputError(f"{where}: expected a file of at most {most:,} bytes, found more")
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # of a NUL, or of half a character
        raise InputError(f"{where}: no file can have such a name ({error})") from error
