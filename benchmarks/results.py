"""What the demo family and merges of it score: the tables of docs/results.md, printed as Markdown.

    python -m benchmarks.results

It takes about half an hour of processor time. Everything it computes is kept as runs of the cache: stopped, it goes on
where it was, and the app shows the same runs. Code that the models write is run, in the sandbox.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import nmerge_core as nm
from nmerge_core.cache import DEMO, cache_root
from nmerge_core.demo.family import write_family
from nmerge_core.face.classifications import Classifications
from nmerge_core.face.results import Merged

TUNED = ("math", "code", "translation")
METRICS = {  # task and metric → how a column calls it, and what its numbers are multiplied by
    ("math", "exact_match"): ("math, exact match %", 100),
    ("code", "pass@1"): ("code, pass@1 %", 100),
    ("translation", "exact_match"): ("translation, exact match %", 100),
    ("translation", "chrf"): ("translation, chrF", 1),
    ("general", "word_perplexity"): ("general, word perplexity", 1),
}
PRIMARY = [("math", "exact_match"), ("code", "pass@1"), ("translation", "exact_match")]
KNOCKOUT_PROBLEMS = 150
KNOCKOUT_TEXTS = 20  # of each category
Z_95 = 1.96


def merges(corpus: Path, neurons: Classifications) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return what is merged: how the table calls it, the method and the parameters that are not its defaults."""
    grouped = {"neurons": str(neurons.path), "calibration": str(corpus)}
    first = grouped | {"others": "dare", "density": 0.4, "weight": 0.4}
    return {
        "averaging": ("linear", {}),
        "task arithmetic, weight 0.4": ("task_arithmetic", {"weight": 0.4}),
        "task arithmetic, weight 0.6": ("task_arithmetic", {"weight": 0.6}),
        "TIES, density 0.2": ("ties", {"density": 0.2}),
        "DARE, density 0.4, weight 0.4": ("dare_linear", {"density": 0.4, "weight": 0.4}),
        "PCB-Merging": ("pcb", {}),
        "Fisher merging, 256 texts of each task": ("fisher", {"corpus": str(corpus)}),
        "RegMean, 256 texts of each task": ("regmean", {"corpus": str(corpus)}),
        "SubModule Linearity": ("sublin", {"calibration": str(corpus)}),
        "NeuronMerge₁ (`others: dare`, density 0.4, weight 0.4)": ("neuronmerge", first),
        "NeuronMerge₂ (`others: sublin`)": ("neuronmerge", grouped),
        "NeuronMerge₂, each task's neurons kept (`specific: own`)": ("neuronmerge", grouped | {"specific": "own"}),
        "NeuroMerging, λ2 auto": ("neuromerging", {}),
    }


def main() -> None:
    """Print all tables."""
    demo = write_family(cache_root() / DEMO)
    base, tuned = demo / "base", [demo / name for name in TUNED]
    neurons = nm.classify([base, *tuned], demo / "corpus")
    print_categories(neurons)
    print_knockout(nm.knockout(base, neurons, "code", range(4), "code", limit=KNOCKOUT_PROBLEMS, run_code=True).curve)

    print_effects(nm.effects(base, neurons, loss=f"{demo / 'corpus'}[:-60]", limit=KNOCKOUT_TEXTS).table)

    tasks = [*TUNED, "general"]
    scored = {folder.name: scores(folder, tasks) for folder in (base, *tuned)}
    heads = [head for head, _ in METRICS.values()]
    print_table(["model", *heads], ([name, *map(with_interval, METRICS, [own] * 5)] for name, own in scored.items()))

    own = pd.concat([scored[name].loc[[name]] for name in TUNED])
    rows = [merged_row("base, for comparison", scored["base"]), merged_row("each task's own fine-tune", own)]
    for title, (method, parameters) in merges(demo / "corpus", neurons).items():
        models = [{"model": str(folder)} for folder in tuned]
        recipe = {"merge_method": method, "base_model": str(base), "models": models, "parameters": parameters}
        rows.append(merged_row(title, scores(nm.merge(recipe), TUNED)))
    print_table(["merged by", "math %", "code %", "translation %", "chrF", "mean of the three %"], rows)


def scores(model: Path | Merged, tasks: Sequence[str]) -> pd.DataFrame:
    """Return value and stderr of a model by task and metric."""
    found = nm.evaluate(model, tasks, run_code=True).scores
    return found.set_index(["task", "metric"])[["value", "stderr"]].sort_index()


def with_interval(metric: tuple[str, str], scored: pd.DataFrame) -> str:
    """Write a score with half its 95 % interval."""
    scale = METRICS[metric][1]
    value, error = scale * scored.loc[metric]
    decimals = 2 if metric[0] == "general" else 1
    return f"{value:.{decimals}f} ± {Z_95 * error:.{decimals}f}"


def merged_row(title: str, scored: pd.DataFrame) -> list[str]:
    """Write a merge's scores, and the mean of its primary ones."""
    primary = [100 * scored.at[metric, "value"] for metric in PRIMARY]
    written = [f"{value:.1f}" for value in (*primary, scored.at[("translation", "chrf"), "value"])]
    return [title, *written, f"{sum(primary) / len(primary):.1f}"]


def print_categories(neurons: Classifications) -> None:
    """Print the neurons of each category in each model, and of how many the category is the same in all of them."""
    counts = neurons.counts().drop(columns="layer").groupby("category", sort=False).sum()
    total = counts[neurons.labels[0]].sum()
    rows = [[category, *map(str, row)] for category, row in zip(counts.index, counts.to_numpy(), strict=True)]
    print_table(["category", *neurons.labels, "in all of them"], [*rows, ["all", *map(str, counts.sum())]])
    share = 100 * counts["intersection"].sum() / total
    undecided = neurons.undecided().sum()
    print(f"{share:.1f} % of {total:,} neurons keep their category; {undecided} of all these categories hang on the")
    print("order of scores within 1e-5 of each other.\n")


def print_knockout(curve: pd.DataFrame) -> None:
    """Print the score by the share of neurons that are off, beside that of the random draws."""
    curve = curve[curve["metric"] == "pass@1"].assign(value=100 * curve["value"])
    rows, means = [], []
    for proportion, shared in curve.groupby("proportion"):
        off = shared["neurons"].iloc[0]
        own, random = (shared.loc[(shared["group"] == "random") == chance, "value"] for chance in (False, True))
        rows.append([f"{100 * proportion:.0f} %", str(off), f"{own.iloc[0]:.1f}"])
        rows[-1].append(f"{random.mean():.1f} ({random.min():.1f} to {random.max():.1f})" if proportion else "")
        means += [(own.iloc[0], random.mean())] if proportion else []
    first, second = (sum(each) / len(means) for each in zip(*means, strict=True))
    rows.append(["mean of 20 to 100 %", "", f"{first:.1f}", f"{second:.1f}"])
    print_table(["code neurons off", "neurons", "code, pass@1 %", "as many random neurons off"], rows)


def print_effects(table: pd.DataFrame) -> None:
    """Print by how much each category's neurons of each layer matter more than random ones on the category's texts."""
    own = table[table["metric"] == table["category"] + "/loss"]
    layers = sorted(own["layer"].unique())
    rows = []
    for category, cells in own.groupby("category", sort=False):
        by_layer = cells.set_index("layer")
        found = [by_layer.loc[layer] for layer in layers]
        bold = ["**" if cell["adjusted"] < 0.05 else "" for cell in found]
        told = [f"{b}{c['effect']:.3f} ± {c['stderr']:.3f}{b}" for b, c in zip(bold, found, strict=True)]
        rows.append([str(category), *told])
    print_table(["neurons off", *(f"layer {layer}" for layer in layers)], rows)


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for cells in rows:
        print(f"| {' | '.join(cells)} |", flush=True)
    print()


if __name__ == "__main__":
    main()
