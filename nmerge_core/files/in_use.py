"""Files and folders of the cache that somebody goes by: they are locked meanwhile, and who removes them asks first."""

import fcntl
import os
import secrets
from contextlib import suppress
from pathlib import Path

from nmerge_core.errors import InputError
from nmerge_core.files.kept_files import remove


class InUse:
    """What `remove_unused` leaves alone while this object is there, in whichever process."""

    def __init__(self, path: Path) -> None:
        """Lock a file or a folder, together with others that use it; what is not there is not held."""
        self._path = path
        self._held: int | None = None
        with suppress(OSError):  # of a file system without locks, too
            self._held = os.open(path, os.O_RDONLY)
            fcntl.flock(self._held, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def __reduce__(self) -> tuple[type["InUse"], tuple[Path]]:
        """Travel to another process, which then uses it too."""
        return InUse, (self._path,)

    def __del__(self) -> None:
        """Give the lock back."""
        if self._held is not None:
            os.close(self._held)


def note_use(path: Path) -> None:
    """Note that something is gone by now, as far as the cache can be written: what was used last is kept longest."""
    with suppress(OSError):
        os.utime(path)


def is_used(path: Path) -> bool:
    """Tell whether a process uses, or is making, a file or a folder or something right inside it."""
    if not path.exists():
        return False
    inside = [each for each in path.iterdir() if each.is_dir()] if path.is_dir() else []
    return any(map(_is_locked, (path, *inside)))


def remove_unused(path: Path) -> None:
    """Remove a file, or a folder with all that is in it.

    Raises:
        InputError: a process uses it.
    """
    if is_used(path):
        raise InputError(f"{path}: a merge that is going goes by it; remove it when that has ended")
    grave = path.with_name(f".deleted-{secrets.token_hex(4)}")
    with suppress(FileNotFoundError):  # removed in another tab
        path.rename(grave)
    for left in path.parent.glob(".deleted-*"):  # by a process that was killed, too
        remove(left)


def _is_locked(path: Path) -> bool:
    held = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(held)
    return False
