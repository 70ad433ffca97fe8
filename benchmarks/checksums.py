"""What NMerge computes on the demo family, as checksums: equal before and after a change that should change no result.

    python -m benchmarks.checksums before.json                          # of this checkout
    python -m benchmarks.checksums after.json --project ../other        # of another one, by its own code
    python -m benchmarks.checksums --compare before.json after.json     # exit status 1 where they differ

Merged weights are compared by every bit, so are cosines, coefficients and statistics; of a classification the category
of each neuron. Everything goes through the command line, which stays the same when the code is moved.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

TASKS = ("math", "code", "translation")
NEURONS = {"neurons": "neurons", "calibration": "demo/corpus", "samples": 8}
# name → the recipe's method and its parameters; paths count from the folder that all is made in
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("linear", {}),
    "task_arithmetic": ("task_arithmetic", {"weight": 0.4}),
    "gradient": (
        "task_arithmetic",
        {"weight": [0.2, 0.6], "lambda": [{"filter": "mlp", "value": 0.5}, {"value": 1.0}]},
    ),
    "ties": ("ties", {"density": 0.2}),
    "ties_tensor": ("ties", {"density": 0.3, "trim": "tensor", "lambda": 0.9}),
    "dare_linear": ("dare_linear", {"density": 0.4, "weight": 0.4}),
    "dare_ties": ("dare_ties", {"density": 0.4}),
    "pcb": ("pcb", {}),
    "pcb_es": ("pcb_es", {"tasks": ["math"], "limit": 4, "evaluations": 3}),
    "subspace": ("subspace", {"keep": "parallel"}),
    "fisher": ("fisher", {"corpus": "demo/corpus", "samples": 8}),
    "regmean": ("regmean", {"corpus": "demo/corpus", "samples": 16}),
    "adamerging": ("adamerging", {"calibration": "demo/corpus", "samples": 2, "steps": 2}),
    "lorahub": ("lorahub", {"calibration": "demo/corpus", "evaluations": 4}),
    "sublin": ("sublin", {"calibration": "demo/corpus", "samples": 8}),
    "neuromerging": ("neuromerging", {}),
    "neuromerging_tuned": ("neuromerging", {"lambda_1": 0.5, "lambda_2": 2.0, "merge_function": "mean"}),
    "neuronmerge_1": ("neuronmerge", {**NEURONS, "others": "dare", "density": 0.4}),
    "neuronmerge_2": ("neuronmerge", {**NEURONS, "others": "sublin"}),
    "neuronmerge_table_10": ("neuronmerge", {**NEURONS, "others": "task_arithmetic"}),
    "neuronmerge_random": ("neuronmerge", {**NEURONS, "grouping": "random"}),
    "neuronmerge_own": (
        "neuronmerge",
        {**NEURONS, "general": "neuromerging", "specific": {"math": "own", "code": "merge"}, "others": "ties"},
    ),
    "neuronmerge_on_the_way": (
        "neuronmerge",
        {"corpus": "demo/corpus", "general": "task_arithmetic", "specific": "own", "others": "dare"},
    ),
}


def write_recipe(name: str, folder: Path) -> Path:
    """Write one of the recipes; methods without base name none."""
    method, parameters = RECIPES[name]
    models = [{"model": f"demo/{task}"} for task in TASKS]
    content: dict[str, Any] = {"merge_method": method, "base_model": "demo/base", "models": models}
    content |= {"parameters": parameters, "seed": 7}
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def digest(*files: Path) -> str:
    """Return 16 hex digits of the contents of files, one after the other."""
    whole = hashlib.sha256()
    for file in files:
        whole.update(file.read_bytes())
    return whole.hexdigest()[:16]


def measure(project: Path, folder: Path) -> dict[str, str]:
    """Compute everything in `folder` by the code of a checkout; return the checksum of each result."""

    def nmerge(*arguments: str) -> None:
        print("nmerge", *arguments, file=sys.stderr, flush=True)
        code = f"import sys; sys.path.insert(0, {str(project)!r}); from nmerge_core.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", code, *arguments]
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)

    environment = {**os.environ, "NMERGE_CACHE": str(folder), "HF_HUB_OFFLINE": "1"}
    found: dict[str, str] = {}
    nmerge("demo", "--out", "demo")
    nmerge("classify", "demo/base", "--corpus", "demo/corpus", "--out", "neurons")
    neurons = pd.read_parquet(folder / "neurons" / "neurons.parquet")[["layer", "neuron", "category"]]
    found["classify"] = hashlib.sha256(neurons.to_csv(index=False).encode()).hexdigest()[:16]
    nmerge("cosine", "demo/base", *(f"demo/{task}" for task in TASKS), "--out", "cosine.csv")
    found["cosine"] = digest(folder / "cosine.csv")
    linearity = ("linearity", "demo/base", "demo/math", "demo/code", "--corpus", "demo/corpus", "--samples", "4")
    nmerge(*linearity, "--neurons", "neurons", "--out", "linearity.csv", "--coefficients", "coefficients.csv")
    found["linearity"] = digest(folder / "linearity.csv", folder / "coefficients.csv")
    for kind in ("fisher", "gram"):
        nmerge("statistics", "demo/math", "--corpus", "demo/corpus", "--kind", kind, "--samples", "4", "--out", kind)
        found[kind] = digest(*sorted((folder / kind).glob("*.safetensors")))
    for name in RECIPES:
        out = f"merged-{name}"
        nmerge("merge", str(write_recipe(name, folder)), out)
        found[f"merge {name}"] = digest(*sorted((folder / out).glob("*.safetensors")))
    nmerge("extract", "demo/base", "merged-ties", "lora", "--rank", "8")
    found["extract"] = digest(folder / "lora" / "adapter_model.safetensors")
    return found


def compare(before: Path, after: Path) -> int:
    """Print what differs and how much is equal; return the exit status."""
    ours, theirs = (json.loads(file.read_text(encoding="utf-8")) for file in (before, after))
    different = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    for name in different:
        print(f"{name}: {ours.get(name, 'missing')} before, {theirs.get(name, 'missing')} after")
    print(f"{len({*ours, *theirs}) - len(different)} of {len({*ours, *theirs})} results are equal")
    return 1 if different else 0


def main() -> int:
    """Measure, or compare what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="the JSON file to write")
    parser.add_argument("--project", type=Path, default=Path(__file__).parents[1], help="the checkout whose code runs")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"))
    arguments = parser.parse_args()
    if arguments.compare:
        return compare(*arguments.compare)
    with tempfile.TemporaryDirectory(prefix="nmerge-checksums-") as folder:
        found = measure(arguments.project.resolve(), Path(folder).resolve())
    arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{len(found)} results in {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
