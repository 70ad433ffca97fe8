"""The processes that `accelerate launch` or torchrun started, as far as their environment tells."""

import atexit
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch.distributed as dist
    from torch import Tensor

T = TypeVar("T")
_alone = False  # whether this process works for itself at the moment


@contextmanager
def alone() -> Iterator[None]:
    """Let this process work as if it were the only one, on what the others do not take part in."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def processes() -> int:
    """Return how many processes work together; 1 when alone."""
    return 1 if _alone else int(os.environ.get("WORLD_SIZE", "1"))


def join() -> tuple[int, int]:
    """Return this process's rank and the number of processes, joining the others first; (0, 1) when alone."""
    world = processes()
    if world == 1:
        return 0, 1
    import torch.distributed as dist  # takes seconds, which one process need not spend

    if not dist.is_initialized():
        dist.init_process_group("gloo")  # results lie in the machine's memory, not on its GPUs
        atexit.register(dist.destroy_process_group)
    return dist.get_rank(), world


def store() -> "dist.Store":
    """Return the store of keys and values by which the processes found each other, after `join`."""
    import torch.distributed as dist

    return dist.distributed_c10d._get_default_store()


def gather(parts: "Iterable[Tensor]") -> None:
    """Put together on the first process, in place, what each has in its own entries; the entries of others are 0.

    Args:
        parts: tensors of a dtype whose values float32 holds exactly; summed one at a time.
    """
    import torch.distributed as dist

    for part in parts:
        total = part.float()
        dist.reduce(total, dst=0)
        part.copy_(total)


def gathered(part: T) -> list[T]:
    """Return on the first process what each of the others has, by its rank; nothing on the others."""
    import torch.distributed as dist

    found: list[T] = [part] * dist.get_world_size()
    dist.gather_object(part, found if dist.get_rank() == 0 else None)
    return found[1:] if dist.get_rank() == 0 else []


def wait() -> None:
    """Wait until all processes have come here; at once when alone."""
    import torch.distributed as dist

    if dist.is_initialized() and not _alone:
        dist.barrier()
