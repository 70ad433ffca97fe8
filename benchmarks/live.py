"""A merge that follows its recipe in memory against the same merges to disk, on the same files, in turn.

    python -m benchmarks.live                          # a family of four in the shape of Qwen2.5-0.5B, on this CPU
    python -m benchmarks.live --shape 7b --device cuda # in the shape of Qwen2.5-7B, on a GPU
    python -m benchmarks.live --demo                   # the demo family alone: from a setting to the next tokens

Seconds to disk are of whole processes, those in memory from the new recipe to the new weights; medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.family import QWEN_05B, QWEN_7B, write_family
from benchmarks.measure import run
from benchmarks.merge import ours, write_recipe
from nmerge_core.answers import next_tokens, prompt_tokens
from nmerge_core.cache import cache_root
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.demo.family import write_family as write_demo
from nmerge_core.machine import peak_memory
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.resident import LiveMerge, hold_family

SHAPES = {"0.5b": QWEN_05B, "7b": QWEN_7B}


@dataclass(frozen=True)
class Change:
    """A change of a recipe: the method, its parameters at the n-th time, and how many seconds are wanted on a CPU."""

    name: str
    method: str
    parameters: Callable[[int], dict[str, Any]]
    wanted: float


CHANGES = (
    Change("task arithmetic, λ", "task_arithmetic", lambda n: {"lambda": 0.3 + 0.01 * n}, 1.2),
    Change("TIES, density", "ties", lambda n: {"density": 0.2 + 0.01 * n}, 3),
    Change("DARE, density", "dare_linear", lambda n: {"density": 0.4 + 0.01 * n, "lambda": 0.4}, 2),
    Change("NeuroMerging, λ1", "neuromerging", lambda n: {"lambda_1": 0.01 * n}, 4),
    Change(
        "one layer's weight",
        "task_arithmetic",
        lambda n: {"lambda": [{"filter": "layers.1.", "value": 0.5 + 0.01 * n}, {"value": 0.4}]},
        0.3,
    ),
)


def add_tokenizer(folders: list[Path], demo: Path) -> None:
    """Give every model the demo family's tokenizer: a model is not run without one."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        content = (write_demo(demo) / "base" / name).read_bytes()
        for folder in folders:
            (folder / name).write_bytes(content)


@dataclass(frozen=True)
class Cost:
    """Of one change of a recipe: seconds on the clock, those of all cores, and the tensors that were merged anew."""

    wall: float
    cpu: float
    tensors: int


def follow(live: LiveMerge, recipe: Recipe) -> Cost:
    """Follow a recipe to its end."""
    cpu = time.process_time()
    found = live.follow(recipe)
    if live.language_model.device.type == "cuda":
        torch.cuda.synchronize()
    return Cost(found.seconds, time.process_time() - cpu, found.tensors)


def copy_limit(live: LiveMerge) -> float:
    """Seconds in which a GPU reads every model once and writes the merge, at the speed of a copy within it."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target, seconds = torch.empty_like(source), []
    for _ in range(10):
        torch.cuda.synchronize()
        started = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return (live.family.bytes + merge_bytes(live)) / (2 * source.nbytes / statistics.median(seconds))


def merge_bytes(live: LiveMerge) -> int:
    """What the merged weights take in the format that they run in."""
    return sum(weights.nbytes for weights in live.language_model.model.parameters())  # a tied tensor once


def changes(work: Path, folders: list[Path], device: str, repeats: int) -> None:
    """Print a row per change: to disk and in memory, in turn."""

    def recipe(change: Change, turn: int) -> Path:
        return write_recipe(change.method, change.parameters(turn), folders, work / "live.yaml")

    first = load_recipe(recipe(CHANGES[0], 0))
    live = LiveMerge(hold_family(first, device), first)
    stored = sum(open_checkpoint(str(folder)).bytes for folder in folders)
    print(
        f"held {live.family.bytes / 1e9:.2f} GB of {stored / 1e9:.2f} GB in files, and the merge in "
        f"{live.language_model.run_dtype}, {merge_bytes(live) / 1e9:.2f} GB"
    )
    limit = f", the copy limit {copy_limit(live):.3f} s" if live.language_model.device.type == "cuda" else ""
    print(f"medians of {repeats}{limit}")
    print(
        f"{'change':20} {'to disk s':>9} {'in memory s':>11} {'cores s':>7} {'wanted':>6} {'faster':>7} {'tensors':>10}"
    )
    for change in CHANGES:
        live.follow(load_recipe(recipe(change, 0)))
        run(ours(recipe(change, 0), work / "out-live"))
        disk, memory = [], []
        for turn in range(1, 1 + repeats):
            disk.append(run(ours(recipe(change, turn), work / "out-live")).wall)
            memory.append(follow(live, load_recipe(recipe(change, turn))))
        wall, cpu = (statistics.median(getattr(cost, name) for cost in memory) for name in ("wall", "cpu"))
        to_disk = statistics.median(disk)
        print(
            f"{change.name:20} {to_disk:9.1f} {wall:11.2f} {cpu:7.2f} {change.wanted:6.1f} {to_disk / wall:6.1f}× "
            f"{memory[0].tensors:4} of {len(live.family.names)}",
            flush=True,
        )
    print(f"largest resident memory {peak_memory() / 1e9:.2f} GB")


def demo(work: Path, repeats: int) -> None:
    """Print the milliseconds from a new setting to the next tokens' probabilities, on the demo family."""
    base, *models = (write_demo(work / "demo") / name for name in ("base", "math", "code", "translation"))
    print(f"{'demo':20} {'ms':>6} {'cores ms':>8} {'wanted':>6}")
    for change in CHANGES:
        recipes = [
            load_recipe(write_recipe(change.method, change.parameters(turn), [base, *models], work / "live.yaml"))
            for turn in range(repeats + 1)
        ]
        live = LiveMerge(hold_family(recipes[0], "cpu"), recipes[0])
        tokens = prompt_tokens(live.language_model, "2 + 2", chat=False)
        seconds = []
        for recipe in recipes:
            wall, cpu = time.perf_counter(), time.process_time()
            live.follow(recipe)
            next_tokens(live.language_model, tokens, 5)
            seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
        wall, cpu = (1000 * statistics.median(each) for each in zip(*seconds[1:], strict=True))
        print(f"{change.name:20} {wall:6.1f} {cpu:8.1f} {50:6}", flush=True)


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="0.5b")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--demo", action="store_true", help="the demo family alone, to the next tokens")
    parser.add_argument("--repeats", type=int, default=3, help="counted changes of each (default: 3)")
    parser.add_argument("--work", type=Path, default=cache_root() / "benchmarks", help="where the family is kept")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    demo(arguments.work, max(20, arguments.repeats))
    if not arguments.demo:
        folders = write_family(arguments.work / f"qwen-{arguments.shape}", SHAPES[arguments.shape])
        add_tokenizer(folders, arguments.work / "demo")
        changes(arguments.work, folders, arguments.device, arguments.repeats)


if __name__ == "__main__":
    main()
