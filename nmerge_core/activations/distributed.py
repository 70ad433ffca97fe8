"""The processes that `accelerate launch` or torchrun started, as far as their environment tells."""

import atexit
import os

import torch.distributed as dist
from torch import Tensor


def join() -> tuple[int, int]:
    """Return this process's rank and the number of processes, joining the others first; (0, 1) when alone."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("gloo")  # results lie in the machine's memory, not on its GPUs
        atexit.register(dist.destroy_process_group)
    return dist.get_rank(), world


def gather(parts: Tensor) -> None:
    """Put together on the first process, in place, what each has in its own entries; the entries of others are 0.

    Args:
        parts: (layers, …) of a dtype whose values float32 holds exactly; summed a layer at a time.
    """
    for part in parts:
        total = part.float()
        dist.reduce(total, dst=0)
        part.copy_(total)


def wait() -> None:
    """Wait until all processes have come here; at once when alone."""
    if dist.is_initialized():
        dist.barrier()
