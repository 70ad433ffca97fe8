"""Merging a family of four in the shape of Qwen2.5-0.5B: NMerge against mergekit, in turn on the same files.

    python -m benchmarks.merge                         # ours alone, where mergekit is not installed
    python -m benchmarks.merge --mergekit mergekit-yaml --repeats 5
    python -m benchmarks.merge --shapes                # peak memory against layers and vocabulary
    python -m benchmarks.merge --growth 2 10 50 115    # seconds against bytes (0.1 B to 7 B, sparse), models, shards
    python -m benchmarks.merge --dry-run               # how long the estimate for a 7B family takes

The first row reads all inputs and writes as many bytes as the output has, and nothing else: no merge can beat it.
Wall seconds and peak memory are of whole processes, from start to exit, medians; ratios are mergekit's over ours.
mergekit trims TIES per tensor, NMerge over the whole model, as the authors do.
"""

import argparse
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import yaml

from benchmarks.family import QWEN_05B, QWEN_7B, Shape, write_family, write_headers
from benchmarks.measure import Command, in_turn, median, run
from nmerge_core.cache import cache_root
from nmerge_core.merging.recipe.registry import named

METHODS: dict[str, dict[str, float]] = {
    "linear": {},
    "task_arithmetic": {"lambda": 0.4},
    "dare_linear": {"density": 0.4, "lambda": 0.4},
    "ties": {"density": 0.2},
    "slerp": {"t": 0.5},
    "model_stock": {},
    "breadcrumbs": {"density": 0.9, "gamma": 0.01},
    "della": {"density": 0.5, "epsilon": 0.15},
    "sce": {"select_topk": 0.5},
}
OURS_ALONE: dict[str, dict[str, float]] = dict.fromkeys(("neuromerging", "pcb", "iso_c", "tsv_m", "swudi"), {})
FLOOR = "read and write"  # what no merge can be faster than: all inputs read, as many bytes written as one has
_COPY = """
import os, sys
*models, out = sys.argv[1:]
block, written = bytearray(8 << 20), open(out, "wb", buffering=0)
for number, model in enumerate(models):
    for file in sorted(os.listdir(model)):
        if file.endswith(".safetensors"):
            with open(os.path.join(model, file), "rb", buffering=0) as read:
                while count := read.readinto(block):
                    if number == 0:
                        written.write(memoryview(block)[:count])
"""
WANTED: dict[str, float] = {
    "linear": 4.5,
    "task_arithmetic": 4.5,
    "dare_linear": 12,
    "ties": 25,
}  # times faster than mergekit
WANTED |= dict.fromkeys(("slerp", "model_stock", "breadcrumbs", "della", "sce"), 4)
SMALL = Shape(layers=12, d_model=896, d_ffn=4864, vocabulary=8192, heads=14, kv_heads=2)


def write_recipe(method: str, parameters: dict[str, float], folders: list[Path], file: Path) -> Path:
    """Write a recipe that both programs read."""
    base, *models = map(str, folders)
    merged = named(method)
    weighed = any(parameter.name == "weight" for parameter in merged.parameters)
    content: dict[str, Any] = {
        "merge_method": method,
        "base_model": base,
        "models": [
            {"model": model, "parameters": {"weight": 1.0} if weighed else {}} for model in models[: merged.most]
        ],
        "dtype": "bfloat16",
    }
    if method == "linear":
        del content["base_model"]
    if method not in METHODS:
        content["models"] = [{"model": model} for model in models]
    if parameters:
        content["parameters"] = parameters
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def ours(recipe: Path, out: Path) -> Command:
    """Our command line."""
    return Command("nmerge", [sys.executable, "-m", "nmerge_core", "merge", str(recipe), str(out)], {}, out)


def theirs(program: str, recipe: Path, out: Path) -> Command:
    """Mergekit's."""
    return Command("mergekit", [*program.split(), str(recipe), str(out), "--no-copy-tokenizer"], {}, out)


def floor(folders: list[Path], out: Path) -> Command:
    """Read all models and write as many bytes as the first has, 8 MiB at a time, and nothing else."""
    return Command("floor", [sys.executable, "-c", _COPY, *map(str, folders), str(out)], {}, out)


def against_mergekit(work: Path, program: str, repeats: int, names: list[str]) -> None:
    """Print a row per method that both have, then ours alone."""
    folders = write_family(work / "qwen-0.5b", QWEN_05B)
    print(f"{'method':16} {'mergekit s':>10} {'nmerge s':>9} {'faster':>7} {'wanted':>6}   "
          f"{'mergekit MB':>11} {'nmerge MB':>9} {'share':>6}")  # fmt: skip
    bare = median(in_turn([floor(folders, work / "out-floor")], repeats)["floor"])
    print(f"{FLOOR:16} {'—':>10} {bare.wall:9.1f} {'':>7} {'':>6}   {'—':>11} {bare.memory / 1e6:9.0f}", flush=True)
    for method, parameters in (METHODS | OURS_ALONE).items():
        if names and method not in names:
            continue
        recipe = write_recipe(method, parameters, folders, work / f"{method}.yaml")
        commands = [ours(recipe, work / "out-nmerge")]
        if program and method in METHODS:
            commands.append(theirs(program, recipe, work / "out-mergekit"))
        costs = in_turn(commands, repeats)
        mine = median(costs["nmerge"])
        row = f"{method:16} {'—':>10} {mine.wall:9.1f} {'':>7} {'':>6}   {'—':>11} {mine.memory / 1e6:9.0f}"
        if len(commands) == 2:
            other = median(costs["mergekit"])
            row = (
                f"{method:16} {other.wall:10.1f} {mine.wall:9.1f} {other.wall / mine.wall:6.1f}× {WANTED[method]:5}×   "
                f"{other.memory / 1e6:11.0f} {mine.memory / 1e6:9.0f} {mine.memory / other.memory:5.0%}"
            )
        print(row, flush=True)


def memory_by_shape(work: Path) -> None:
    """Print the peak memory of a TIES and a NeuroMerging merge as layers and vocabulary grow."""
    shapes = {
        "12 layers, vocabulary 8,192": SMALL,
        "48 layers, vocabulary 8,192": replace(SMALL, layers=48),
        "12 layers, vocabulary 262,144": replace(SMALL, vocabulary=262_144),
    }
    print(f"{'family of three':32} {'ties MB':>8} {'neuromerging MB':>16}")
    for name, shape in shapes.items():
        folder = work / "shape"
        shutil.rmtree(folder, ignore_errors=True)
        folders = write_family(folder, shape, models=2)
        peaks = []
        for method in ("ties", "neuromerging"):
            recipe = write_recipe(method, {}, folders, work / "shape.yaml")
            peaks.append(run(ours(recipe, work / "out-nmerge")).memory / 1e6)
        print(f"{name:32} {peaks[0]:8.0f} {peaks[1]:16.0f}", flush=True)
        shutil.rmtree(folder)


def growth(work: Path, repeats: int, factors: Sequence[int]) -> None:
    """Print wall and processor seconds of task arithmetic as layers, models and shards grow, with linear fits.

    Files are sparse.
    """
    by_layers = [(f"{layers} layers", replace(SMALL, layers=layers), 2, 1) for layers in (4 * each for each in factors)]
    by_models = [(f"{count} models", replace(SMALL, layers=4), count, 1) for count in (2, 4, 7, 10)]
    by_shards = [(f"{shards} shards", replace(SMALL, layers=96), 2, shards) for shards in (1, 8, 32, 96)]
    for what, cases in (("layers", by_layers), ("models", by_models), ("shards", by_shards)):
        points = []
        title, unit = f"task arithmetic, more {what}", "shard" if what == "shards" else "GB"
        print(f"{title:32} {'GB read and written':>20} {'shards of each':>15} {'seconds':>8} {'processor':>9}")
        for name, shape, count, shards in cases:
            folder = work / "growth"
            shutil.rmtree(folder, ignore_errors=True)
            weights = 2 * sum(math.prod(size) for _, size in shape.tensors())  # bytes, of bfloat16
            with patch("nmerge_core.checkpoints.writer.SHARD_BYTES", weights // shards):
                folders = write_headers(folder, shape, models=count)
            recipe = write_recipe("task_arithmetic", {}, folders, work / "growth.yaml")
            cost = median(in_turn([ours(recipe, work / "out-nmerge")], repeats)["nmerge"])
            files = len(list(folders[0].glob("*.safetensors")))
            size = weights * (count + 2) / 1e9
            points.append((files if unit == "shard" else size, cost.wall, cost.cpu))
            print(f"{name:32} {size:20.2f} {files:15} {cost.wall:8.2f} {cost.cpu:9.2f}", flush=True)
            shutil.rmtree(folder)
        sizes, wall, cpu = np.array(points).T
        print(f"fit: {_fit(sizes, wall, unit)}\nprocessor: {_fit(sizes, cpu, unit)}\n", flush=True)


def _fit(sizes: np.ndarray, seconds: np.ndarray, unit: str) -> str:
    """Describe the line that is nearest to seconds (n,) by sizes (n,): its start, its slope, and how near it is."""
    slope, start = np.polyfit(sizes, seconds, 1)
    left = seconds - (slope * sizes + start)
    fit = 1 - (left**2).sum() / ((seconds - seconds.mean()) ** 2).sum()
    return f"{start:.2f} s and {slope:.3f} s a {unit}, R² {fit:.3f}, at most {np.abs(left).max():.2f} s off"


def dry_runs(work: Path, repeats: int) -> None:
    """Print how long `merge --dry-run` of a base and three fine-tunes in the shape of Qwen2.5-7B takes."""
    folders = write_headers(work / "qwen-7b", QWEN_7B)
    print(f"{'merge --dry-run of a 7B family':32} {'seconds':>8}")
    for method in (*METHODS, *OURS_ALONE):
        recipe = write_recipe(method, {}, folders, work / "dry-run.yaml")
        command = ours(recipe, work / "out-nmerge")
        costs = in_turn([replace(command, arguments=[*command.arguments, "--dry-run"])], repeats)
        print(f"{method:32} {median(costs['nmerge']).wall:8.2f}", flush=True)


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mergekit", default=shutil.which("mergekit-yaml") or "", help="command that runs mergekit")
    parser.add_argument("--repeats", type=int, default=3, help="counted runs of each (default: 3)")
    parser.add_argument("--methods", default="", help="some of the methods, separated by commas (default: all)")
    parser.add_argument("--shapes", action="store_true", help="peak memory against layers and vocabulary instead")
    parser.add_argument(
        "--growth",
        type=int,
        nargs="+",
        metavar="N",
        help="seconds at N × 4 layers, with 2 to 10 models, and in 1 to 96 shards, instead",
    )
    parser.add_argument("--dry-run", action="store_true", help="time of the estimate for a 7B family instead")
    parser.add_argument(
        "--work", type=Path, default=cache_root() / "benchmarks", help="where families and merges are kept"
    )
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.shapes:
        memory_by_shape(arguments.work)
    elif arguments.growth:
        growth(arguments.work, arguments.repeats, arguments.growth)
    elif arguments.dry_run:
        dry_runs(arguments.work, arguments.repeats)
    else:
        names = [name for name in arguments.methods.split(",") if name]
        against_mergekit(arguments.work, arguments.mergekit, arguments.repeats, names)


if __name__ == "__main__":
    main()
