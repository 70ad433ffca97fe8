"""How loops are compiled: on first use, a few seconds each, for this processor, and kept in the cache.

A file of loops can be imported without numba, which takes half a second: it is when a loop is first called.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import RLock
from types import FunctionType
from typing import Any

from nmerge_core.cache import cache_root

_LOCK = RLock()  # threads that meet a loop at the same moment compile it once
_TOLD: list[Callable[[], None]] = []  # whom to tell of a loop that is not there yet


class Loop:
    """A loop over arrays that is compiled when it is first called with arguments of new types."""

    def __init__(self, function: Callable[..., Any], *, kept: bool) -> None:
        """Take a plain function; `kept` ones are kept on the disk, with the loops of this kind that they call."""
        self._function: Any = function
        self._kept = kept

    def __call__(self, *arguments: Any) -> Any:
        """Run the loop."""
        return self.dispatcher(*arguments)

    @property
    def dispatcher(self) -> Any:
        """The compiled function, as another one calls it."""
        with _LOCK:
            return self._compiled

    @cached_property
    def _compiled(self) -> Any:
        os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_root() / "compiled"))  # read when numba is imported
        from numba import njit

        own, called = self._function, self._called()
        resolved = {**own.__globals__, **{name: loop.dispatcher for name, loop in called.items()}}
        function = FunctionType(own.__code__, resolved, own.__name__, own.__defaults__, own.__closure__)
        function.__module__, function.__qualname__ = own.__module__, own.__qualname__
        # Without the interpreter's lock, so that threads work side by side; no operation is fused or reordered.
        dispatcher: Any = njit(nogil=True)(function)
        if self._kept:
            from nmerge_core.compiler_cache import keep

            keep(dispatcher, function, sorted({Path(each) for each in self.files()}), _tell)
        return dispatcher

    def files(self) -> Iterator[str]:
        """Yield the source files of this loop and of those that it calls: a change of any compiles it anew."""
        yield self._function.__code__.co_filename
        for loop in self._called().values():
            yield from loop.files()

    def _called(self) -> dict[str, "Loop"]:
        named = {name: self._function.__globals__.get(name) for name in self._function.__code__.co_names}
        return {name: value for name, value in named.items() if isinstance(value, Loop)}


@contextmanager
def told_of_compiling(tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` before each loop that has to be compiled while the block runs, in the thread that needs it."""
    _TOLD.append(tell)
    try:
        yield
    finally:
        _TOLD.remove(tell)


def _tell() -> None:
    for tell in [*_TOLD]:
        tell()


def compiled(function: Callable[..., Any]) -> Any:
    """Make a loop that is kept on the disk where that can be."""
    return Loop(function, kept=True)


def inlined(function: Callable[..., Any]) -> Any:
    """Make a loop that others call: it is compiled with them, wherever it stands."""
    return Loop(function, kept=False)
