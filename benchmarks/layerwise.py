"""What classifying layer by layer takes beside the whole model in memory: whole commands, in turn, and their peaks.

    python -m benchmarks.layerwise                 # random weights in the shape of Qwen2.5-0.5B, both ways
    python -m benchmarks.layerwise --shape 7b      # weights of 0 that take no disk, layer by layer alone

Both read the same texts in float32; that they write the same neurons.parquet is checked. Peaks are of resident memory
and count files that are mapped into it: the scores, and the hidden states of the texts.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.family import QWEN_05B, QWEN_7B, write_family, write_headers
from benchmarks.live import add_tokenizer
from benchmarks.measure import Command, run
from nmerge_core.cache import cache_root
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.demo.family import write_family as write_demo

CATEGORIES = ("general", "math", "code", "translation")


def commands(model: Path, corpus: Path, work: Path, ways: Sequence[str]) -> list[Command]:
    """Return a command for each way: "whole" or "layerwise"."""
    shared = [sys.executable, "-m", "nmerge_core", "classify", str(model), "--corpus", str(corpus)]
    shared += ["--device", "cpu", "--run-dtype", "float32"]
    found = []
    for way in ways:
        own = {"NMERGE_CACHE": str(work / f"cache-{way}")}  # else the second takes the run of the first
        flags = ["--layerwise"] if way == "layerwise" else []
        found.append(Command(way, [*shared, *flags, "--out", str(work / way)], own, work / way))
    return found


def write_corpus(demo: Path, out: Path, texts: int) -> Path:
    """Write the first so many texts of each category of the demo corpus."""
    out.mkdir(parents=True, exist_ok=True)
    for category in CATEGORIES:
        lines = (demo / "corpus" / f"{category}.jsonl").read_text(encoding="utf-8").splitlines()
        (out / f"{category}.jsonl").write_text("\n".join(lines[:texts]) + "\n", encoding="utf-8")
    return out


def main() -> None:
    """Print a row per way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("0.5b", "7b"), default="0.5b")
    parser.add_argument("--texts", type=int, default=30, help="of each category (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=cache_root() / "benchmarks", help="where models are kept")
    asked = parser.parse_args()
    work = asked.work / f"layerwise-{asked.shape}"
    if asked.shape == "7b":
        folders, ways = write_headers(work, QWEN_7B, models=0), ["layerwise"]
    else:
        folders, ways = write_family(work, QWEN_05B, models=0), ["whole", "layerwise"]
    add_tokenizer(folders, asked.work / "demo")
    corpus = write_corpus(write_demo(asked.work / "demo"), work / "corpus", asked.texts)
    weights = 4 * open_checkpoint(str(folders[0])).parameters
    print(f"{asked.shape}: {weights / 1e9:.2f} GB of weights in float32, {4 * asked.texts} texts")
    written = []
    for command in commands(folders[0], corpus, work, ways):
        cost = run(command)
        print(f"{command.name:>9}: peak {cost.memory / 1e9:.2f} GB, {cost.cpu:.0f} s of processor time", flush=True)
        meta = json.loads((command.out / "meta.json").read_text())
        assert meta["run_dtype"] == "float32"
        written.append((command.out / "neurons.parquet").read_bytes())
    assert len({*written}) == 1, "the two ways differ"


if __name__ == "__main__":
    main()
