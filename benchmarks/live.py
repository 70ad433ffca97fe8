"""A merge that follows its recipe in memory against the same merges to disk, on the same files, in turn.

    python -m benchmarks.live                          # a family of four in the shape of Qwen2.5-0.5B, on this CPU
    python -m benchmarks.live --shape 7b --device cuda # in the shape of Qwen2.5-7B, on a GPU

Seconds to disk are of whole processes, those in memory from the new recipe to the new weights; medians.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.family import QWEN_05B, QWEN_7B, write_family
from benchmarks.measure import in_turn, median
from benchmarks.merge import ours, write_recipe
from nmerge_core.cache import cache_root
from nmerge_core.demo.family import write_family as write_demo
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.resident import Family, LiveMerge, hold_family

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
        lambda n: {"lambda": [{"filter": "layers.7.", "value": 0.5 + 0.01 * n}, {"value": 0.4}]},
        0.3,
    ),
)


def add_tokenizer(folders: list[Path], demo: Path) -> None:
    """Give every model the demo family's tokenizer: a model is not run without one."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        content = (write_demo(demo) / "base" / name).read_bytes()
        for folder in folders:
            (folder / name).write_bytes(content)


def followed(live: LiveMerge, recipe: Recipe) -> tuple[float, int]:
    """Seconds to follow a recipe, and the tensors that were merged anew."""
    found = live.follow(recipe)
    if live.language_model.device.type == "cuda":
        torch.cuda.synchronize()
    return found.seconds, found.tensors


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="0.5b")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3, help="counted changes of each (default: 3)")
    parser.add_argument("--work", type=Path, default=cache_root() / "benchmarks", help="where the family is kept")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    folders = write_family(arguments.work / f"qwen-{arguments.shape}", SHAPES[arguments.shape])
    add_tokenizer(folders, arguments.work / "demo")

    def recipe(change: Change, turn: int) -> Path:
        return write_recipe(change.method, change.parameters(turn), folders, arguments.work / "live.yaml")

    family: Family = hold_family(load_recipe(recipe(CHANGES[0], 0)), arguments.device)
    live = LiveMerge(family, load_recipe(recipe(CHANGES[0], 0)))
    print(f"held {family.bytes / 1e9:.2f} GB, the merge {live.language_model.run_dtype}")
    print(f"{'change':20} {'to disk s':>9} {'in memory s':>11} {'wanted':>6} {'faster':>7} {'tensors':>8}")
    for change in CHANGES:
        live.follow(load_recipe(recipe(change, 0)))
        costs = in_turn([ours(recipe(change, 0), arguments.work / "out-live")], arguments.repeats)
        seconds, tensors = zip(
            *(followed(live, load_recipe(recipe(change, 1 + turn))) for turn in range(arguments.repeats)), strict=True
        )
        disk, memory = median(costs["nmerge"]).wall, statistics.median(seconds)
        print(
            f"{change.name:20} {disk:9.1f} {memory:11.2f} {change.wanted:6.1f} {disk / memory:6.1f}× "
            f"{tensors[0]:4} of {len(family.names)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
