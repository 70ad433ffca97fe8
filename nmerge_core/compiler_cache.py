"""Compiled loops on the disk: one writer at a time, and made anew when any source of theirs has changed."""

from collections.abc import Callable, Sequence
from fcntl import LOCK_EX, flock
from pathlib import Path
from types import FunctionType
from typing import Any

from numba.core.caching import FunctionCache
from numba.core.runtime import rtsys


def keep(dispatcher: Any, function: FunctionType, sources: Sequence[Path], tell: Callable[[], None]) -> None:
    """Let a compiled function be kept on the disk; nothing happens where no folder can be written.

    `tell` is called before it is compiled, as the disk does not have it.
    """
    try:
        dispatcher._cache = _Cache(function, sources, tell)
    except RuntimeError:
        pass


class _Cache(FunctionCache):
    """numba's cache; what a full disk or a power cut left of it is compiled anew."""

    def __init__(self, function: FunctionType, sources: Sequence[Path], tell: Callable[[], None]) -> None:
        super().__init__(function)
        self._tell = tell
        # numba looks at the function's own file alone; the loops that are compiled into it may stand in others.
        stamps = [(file.stat().st_mtime, file.stat().st_size) for file in sources]
        self._cache_file._source_stamp = stamps

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        found = self._read(sig, target_context)
        if found is None:
            self._tell()
        return found

    def _read(self, sig: Any, target_context: Any) -> Any:
        try:
            # numba's own first loads all that it could be asked to compile, which takes as long as many a merge.
            rtsys.initialize(target_context)
            return self._load_overload(sig, target_context)
        except Exception:  # whatever reading half a pickle may raise
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            with (Path(self.cache_path) / "lock").open("w") as file:
                flock(file, LOCK_EX)
                try:
                    super().save_overload(sig, data)
                except OSError:
                    raise
                except Exception:  # of an index that is cut short, or none: begin another
                    self.flush()
                    super().save_overload(sig, data)
        except OSError:
            pass
