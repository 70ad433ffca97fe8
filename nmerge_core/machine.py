"""What this machine offers: the device to compute on, and the memory that was used."""

import resource
import sys
from typing import TYPE_CHECKING

from nmerge_core.errors import InputError

if TYPE_CHECKING:
    import torch


def choose_device(name: str = "auto") -> "torch.device":
    """Return the named torch device; auto is the first GPU where there is one, else the CPU.

    Raises:
        InputError: there is no such device.
    """
    import torch  # here, so that asking for the memory used does not bring it along

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device '{name}': expected auto, cpu, or a GPU that is here such as cuda:0 ({reason})"
        ) from error
    return device


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
