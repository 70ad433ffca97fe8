"""A recipe in stages whose entrywise ones are computed when they are read, against the same with written stages.

    python -m benchmarks.chain                  # two entrywise stages before task arithmetic, and before TIES
    python -m benchmarks.chain --repeats 5

A family of four in the shape of Qwen2.5-0.5B; both sides in turn, medians of whole processes. What is written is
counted by the kernel; the most on the disk is what lies beside the family at the end of a stage.
"""

import argparse
import sys
from pathlib import Path

import yaml

from benchmarks.family import QWEN_05B, write_family
from benchmarks.measure import Command, in_turn, median
from nmerge_core.cache import cache_root

_MERGE = """
import sys
from pathlib import Path
from nmerge_core.merging import engine
from nmerge_core.merging.recipe.staged_recipe import StagedRecipe

how, recipe, out = sys.argv[1:]
if how == "written":
    StagedRecipe.computed = frozenset()
most = 0

def look(stage, done, total, unit=""):
    global most
    if done == total:
        hidden = Path(out).parent / f".{Path(out).name}.stages"
        most = max(most, sum(512 * file.stat().st_blocks for file in hidden.rglob("*")))

engine.merge(engine.load(recipe), Path(out), progress=look)
written = next(line for line in open("/proc/self/io") if line.startswith("wchar"))
print(written.split()[1], most)
"""


def write_recipe(last: str, folders: list[Path], file: Path) -> Path:
    """Write a chain: the mean of two fine-tunes, added to the third, merged into the base."""
    base, math, code, translation = map(str, folders)
    half = {"weight": 0.5}
    content = {
        "stages": {
            "mean": {"merge_method": "linear", "models": [{"model": math}, {"model": code}]},
            "sum": {
                "merge_method": "task_arithmetic",
                "base_model": base,
                "models": [{"model": "mean", "parameters": half}, {"model": translation, "parameters": half}],
            },
        },
        "merge_method": last,
        "base_model": base,
        "models": [{"model": "sum"}],
    }
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="counted runs of each (default: 3)")
    parser.add_argument(
        "--work", type=Path, default=cache_root() / "benchmarks", help="where family and merges are kept"
    )
    arguments = parser.parse_args()
    work: Path = arguments.work
    folders = write_family(work / "qwen-0.5b", QWEN_05B)
    print(f"{'last stage':16} {'stages':9} {'wall s':>7} {'CPU s':>6} {'MB':>6} {'GB written':>11} {'GB at most':>11}")
    for last in ("task_arithmetic", "ties"):
        recipe = write_recipe(last, folders, work / "chain.yaml")
        commands = [
            Command(
                how, [sys.executable, "-c", _MERGE, how, str(recipe), str(work / f"out-{how}")], {}, work / f"out-{how}"
            )
            for how in ("written", "computed")
        ]
        for how, costs in in_turn(commands, arguments.repeats).items():
            cost = median(costs)
            written, most = map(int, (work / f"{how}.log").read_text().split())
            print(
                f"{last:16} {how:9} {cost.wall:7.1f} {cost.cpu:6.1f} {cost.memory / 1e6:6.0f} {written / 1e9:11.2f} "
                f"{most / 1e9:11.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
