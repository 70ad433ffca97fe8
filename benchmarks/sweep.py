"""A sweep of nine points over the demo family, on all its tasks: how long it takes, and what of it is merging.

    python -m benchmarks.sweep                    # NeuroMerging's λ1 and λ2, 150 problems of each of the four tasks
    python -m benchmarks.sweep --limit 20 --prune

Code that the models write is run, in the sandbox.
"""

import argparse
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from nmerge_core.demo.family import write_family
from nmerge_core.progress import silent
from nmerge_core.search.reading import load_sweep
from nmerge_core.search.trials_loop import sweep

TUNED = ("math", "code", "translation")


def main() -> None:
    """Print the trials and the seconds, on the clock and of all cores."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--limit", type=int, default=150, help="problems of each task (150)")
    parser.add_argument("--prune", action="store_true", help="end hopeless trials early")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        demo = write_family(Path(folder) / "demo")
        plan = load_sweep(
            {
                "recipe": {
                    "merge_method": "neuromerging",
                    "base_model": str(demo / "base"),
                    "models": [{"model": str(demo / name)} for name in TUNED],
                },
                "search": {"parameters.lambda_1": [0.0, 0.5, 1.0], "parameters.lambda_2": [1.0, 1.5, 2.0]},
                "tasks": [str(demo / "tasks" / f"{name}.yaml") for name in ("general", *TUNED)],
                "limit": arguments.limit,
                "prune": arguments.prune,
            }
        )
        started, before = time.perf_counter(), os.times()
        trials = sweep(plan, Path(folder) / "out", run_code=True, progress=silent)
        wall, after = time.perf_counter() - started, os.times()
    print(trials.to_string(index=False))
    ours, programs = (sum(after[i] - before[i] for i in places) for places in ((0, 1), (2, 3)))
    merging, scoring = trials["merging"].sum(), (trials["seconds"] - trials["merging"]).sum()
    first = trials["merging"].iloc[0]
    print(f"{wall:.0f} s on the clock; of all cores {ours:.0f} s, and {programs:.0f} s of the programs that were run")
    print(f"merging {merging:.1f} s, of which {first:.1f} s the first, which reads the models; scoring {scoring:.0f} s")


if __name__ == "__main__":
    main()
