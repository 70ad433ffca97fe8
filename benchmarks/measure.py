"""Whole processes, timed by the operating system: two commands in turn, so that a busy machine slows both."""

import os
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Command:
    """What is measured: a name, its arguments, what is added to its environment, and what it writes."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    out: Path


@dataclass(frozen=True)
class Cost:
    """Of one process from start to end: wall seconds, processor seconds, peak resident bytes."""

    wall: float
    cpu: float
    memory: int


def run(command: Command) -> Cost:
    """Run a command to its end, with the output folder of the run before removed.

    Raises:
        RuntimeError: it failed; the end of what it printed is the message.
    """
    subprocess.run(["rm", "-rf", str(command.out)], check=True)
    with (command.out.parent / f"{command.name}.log").open("w+b") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            command.arguments, env=os.environ | dict(command.environment), stdout=log, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        if status:
            log.seek(0)
            raise RuntimeError(f"{command.name} failed:\n{log.read().decode(errors='replace')[-2000:]}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def in_turn(commands: Sequence[Command], repeats: int) -> dict[str, list[Cost]]:
    """Run the commands A B A B …, after one uncounted run of each, and return each one's costs."""
    costs: dict[str, list[Cost]] = {command.name: [] for command in commands}
    for turn in range(repeats + 1):
        for command in commands:
            cost = run(command)
            if turn:
                costs[command.name].append(cost)
    return costs


def median(costs: Sequence[Cost]) -> Cost:
    """The median of each figure."""
    return Cost(*(statistics.median(getattr(cost, name) for cost in costs) for name in ("wall", "cpu", "memory")))
