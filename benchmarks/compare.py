"""Memory and processor time of comparing a dozen fine-tunes of one large base, neuron by neuron.

    python -m benchmarks.compare                              # one layer in the shape of Qwen2.5-7B
    python -m benchmarks.compare --layers 28 --d-model 64     # as many neurons as it has, of short weights: the tables

Weights are 0 in sparse files, which take no room on the disk and as long to compare as any.
"""

import argparse
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.family import QWEN_7B, write_headers
from nmerge_core.similarity.measure import cosine
from nmerge_core.similarity.tables import conflicts


def peak() -> float:
    """Return the most memory that this process has held, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def main() -> None:
    """Compare, rank, and print what each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=12)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--d-model", type=int, default=QWEN_7B.d_model)
    asked = parser.parse_args()
    shape = replace(QWEN_7B, layers=asked.layers, d_model=asked.d_model, heads=asked.d_model // 64, vocabulary=512)
    with tempfile.TemporaryDirectory() as folder:
        base, *tuned = map(str, write_headers(Path(folder), shape, asked.models))
        found = cosine(base, tuned)
    print(f"{asked.models} fine-tunes compared: {time.process_time():.1f} processor seconds, {peak():.2f} GB")
    ranked = conflicts(found.between)
    print(f"{len(found.between):,} rows, {len(ranked):,} neurons ranked: {time.process_time():.1f} s, {peak():.2f} GB")


if __name__ == "__main__":
    main()
