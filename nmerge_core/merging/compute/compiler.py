"""How loops are compiled: on first use, a few seconds each, for this processor, and kept in the cache."""

import os
from collections.abc import Callable
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any

from nmerge_core.cache import cache_root

os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_root() / "compiled"))  # read when numba is imported

from numba import njit  # noqa: E402
from numba.core.caching import FunctionCache  # noqa: E402

# Without the interpreter's lock, so that threads work side by side; no operation is fused with another or reordered.
inlined = njit(nogil=True)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function when it is first called with arguments of new types; kept on the disk where that can be."""
    loop: Any = njit(nogil=True)(function)
    try:
        loop._cache = _Cache(function)
    except RuntimeError:  # no folder can be written
        pass
    return loop


class _Cache(FunctionCache):
    """numba's cache, with one writer at a time; what a full disk or a power cut left of it is compiled anew."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whatever reading half a pickle may raise
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            with (Path(self.cache_path) / "lock").open("w") as file:
                flock(file, LOCK_EX)
                try:
                    super().save_overload(sig, data)
                except EOFError:
                    self.flush()  # the index was cut short: begin another
                    super().save_overload(sig, data)
        except OSError:
            pass
