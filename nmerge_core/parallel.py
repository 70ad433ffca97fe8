"""Work on one thread per core, its results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import islice
from typing import TypeVar

import numpy as np

from nmerge_core.lazy import torch
from nmerge_core.machine import threads

_KEPT = 16 << 20  # bytes: the blocks that a chain of computed stages holds at once

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(function: Callable[[Item], Result], items: Iterable[Item], *, with_torch: bool = True) -> Iterator[Result]:
    """Apply `function` on one thread per core, each single-threaded, and yield the results in order.

    A few items per core are under way at once, so memory is bounded by blocks, not by the model. A function that needs
    no torch is spared its import.
    """
    if with_torch:
        torch.get_num_threads()  # of this thread, before torch takes the pool's number for everyone's
        if torch.cuda.is_initialized():
            _load_linear_algebra()
    workers = threads()
    _keep_freed_memory()
    with ThreadPoolExecutor(workers, initializer=_work_alone if with_torch else None) as pool:
        remaining = iter(items)
        pending: deque[Future[Result]] = deque(pool.submit(function, item) for item in islice(remaining, 4 * workers))
        try:
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield result
        finally:
            for future in pending:
                future.cancel()


@cache
def _load_linear_algebra() -> None:
    """Have torch load its decompositions on a GPU now: threads that are first to ask for one at once fail."""
    torch.linalg.eigh(torch.eye(2, dtype=torch.float64, device="cuda"))


@cache
def _keep_freed_memory() -> None:
    """Let glibc keep what a thread frees between two blocks: what it gives back, the kernel clears page by page anew.

    It keeps twice the size of the largest area that was taken from the system by itself and freed; to be taken, an area
    need not be touched.
    """
    np.empty(_KEPT // 2, np.uint8)


def _work_alone() -> None:
    torch.set_num_threads(1)
