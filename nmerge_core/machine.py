"""What this machine offers: the device to compute on, and the memory that was used."""

import gc
import os
import re
import resource
import sys
from functools import cache
from pathlib import Path

from nmerge_core.errors import InputError

CPU = "cpu"
# What the drivers of a GPU put there: NVIDIA's, its Jetson's, AMD's, and Windows' for a Linux inside it.
_GPU_DRIVERS = ("/dev/nvidiactl", "/dev/nvmap", "/dev/kfd", "/dev/dxg")


def choose_device(name: str = "auto") -> str:
    """Return the name of a torch device; auto is the first GPU where there is one, else the CPU.

    Raises:
        InputError: there is no such device.
    """
    if name == CPU or (name == "auto" and not any(Path(driver).exists() for driver in _GPU_DRIVERS)):
        return CPU
    import torch  # takes seconds, which work on a CPU need not spend

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else CPU
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device '{name}': expected auto, cpu, or a GPU that is here such as cuda:0 ({reason})"
        ) from error
    return name


def kind_of(device: str) -> str:
    """Return what kind of device this is, cpu or cuda, whatever its number."""
    return device.split(":")[0]


def threads() -> int:
    """Return how many threads to work on: what torch was told, else OMP_NUM_THREADS, else the number of cores."""
    told_torch = getattr(sys.modules.get("torch"), "get_num_threads", None)  # not there while torch is being imported
    if told_torch:
        return max(1, min(told_torch(), cores()))
    told = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return max(1, min(int(told[:9]) if told.isdecimal() else cores(), cores()))


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def cpu_flags() -> frozenset[str]:
    """Return the instructions this machine's processors have beyond the common ones, as Linux calls them."""
    try:
        listed = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return frozenset()
    return frozenset(listed[1].split()) if listed else frozenset()


@cache
def total_memory() -> int:
    """Return the memory this process may use, in bytes: the machine's, or its container's where that is less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return machine
    return min(machine, int(limit)) if limit.isdigit() else machine


def available_memory() -> int:
    """Return the memory that this process could still take without another losing any, in bytes; 0 if nothing tells."""
    try:
        machine = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return 0
    left = int(machine[1]) * 1024 if machine else 0
    try:
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        kept = re.search(r"^inactive_file (\d+)$", Path("/sys/fs/cgroup/memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return left
    return max(min(left, total_memory() - used + (int(kept[1]) if kept else 0)), 0)  # what files fill is given back


def release_memory() -> None:
    """Give back to the machine and to its accelerator what nothing holds any more."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")  # getrusage counts the memory of the process that started this one, too
    if status.exists() and (peak := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return int(peak[1]) * 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
