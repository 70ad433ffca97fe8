"""Work on one thread per core, its results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import islice
from typing import TypeVar

from nmerge_core.lazy import torch
from nmerge_core.machine import threads

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


def _work_alone() -> None:
    torch.set_num_threads(1)
