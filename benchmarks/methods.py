"""Every merge method and step with its defaults: loss on held-out texts, against task arithmetic; time, memory.

    python -m benchmarks.methods demo                 # the demo family
    python -m benchmarks.methods FAMILY CORPUS TEXTS  # folders, as of benchmarks.rules

Each method merges in a process of its own, which finds all that it needs: categories of neurons, statistics,
coefficients. Judged is the mean loss of the answers to held-out prompts of the tasks that were merged, in nats a token,
paired by text with task arithmetic of the same models: 95 % by bootstrap over texts, p by Holm over all methods. What
was measured is kept in the cache (benchmarks/methods-…): stopped, it goes on where it was.
"""

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.measure import run
from benchmarks.merge import ours
from benchmarks.rules import TUNED, Subject, answer_losses, subject_named
from nmerge_core.cache import DEMO, cache_root
from nmerge_core.comparison.paired import compare_all
from nmerge_core.face.results import REPORT
from nmerge_core.loading import load_model
from nmerge_core.merging.recipe.registry import Method, methods, steps

ALL, PAIR = "all fine-tunes", "the first two"
REFERENCE = {ALL: "task arithmetic, weight 0.4", PAIR: "task arithmetic of the first two, weight 0.5"}
LAST = ("pcb_es", "lorahub", "adamerging")  # they search: minutes each
WITHOUT = ("passthrough",)  # takes one model as it is
# Of a family without problems that can be scored: how well the texts of its corpus are predicted.
PREDICTED: dict[str, Any] = {
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
}


@dataclass(frozen=True)
class Entry:
    """A row: what it is called, which models it merges, and its recipe's method, parameters and steps after it."""

    title: str
    models: str
    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    then: tuple[Mapping[str, Any], ...] = ()


def demo_tasks(demo: Path, folder: Path, judged: int) -> list[str]:
    """Write the demo's tasks of the fine-tunes without the first problems, which merges are judged by."""
    shutil.copytree(demo / "tasks", folder, dirs_exist_ok=True)
    for name in TUNED:
        problems = (demo / "tasks" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / f"{name}.jsonl").write_text("".join(problems[judged:]), encoding="utf-8")
    return [str(folder / f"{name}.yaml") for name in TUNED]


def predicted_tasks(subject: Subject, folder: Path) -> list[str]:
    """Write a task for each fine-tune of how well its category's texts of the corpus are predicted."""
    folder.mkdir(exist_ok=True)
    for name in subject.models:
        texts = {"data_files": {"test": str(subject.corpus.resolve() / f"{name}.jsonl")}}
        content = {"task": f"predicted_{name}", **PREDICTED, "dataset_kwargs": texts}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return [str(folder / f"{name}.yaml") for name in subject.models]


def entries(subject: Subject, tasks: Sequence[str]) -> Iterator[Entry]:
    """Return every method and every step with its defaults, and what they are compared with, the dearest last."""
    yield Entry(REFERENCE[ALL], ALL, "task_arithmetic", {"weight": 0.4})
    yield Entry(REFERENCE[PAIR], PAIR, "task_arithmetic", {"weight": 0.5})
    for step in steps().values():
        then = ({"method": step.name, **_data(step, subject, tasks)},)
        for weight in (0.4, 1.0):
            yield Entry(
                f"task arithmetic, weight {weight:g}, then {step.title}",
                ALL,
                "task_arithmetic",
                {"weight": weight},
                then,
            )
    known = sorted(methods().values(), key=lambda each: (each.name in LAST, each.name))
    for method in known:
        if method.name in WITHOUT:
            continue
        few = method.most is not None and method.most < len(subject.models)
        yield Entry(method.title, PAIR if few else ALL, method.name, _data(method, subject, tasks))
        if method.name == "neuronmerge":
            for specific in ("amplify", "tsv_m"):
                given = _data(method, subject, tasks) | {"specific": specific}
                yield Entry(f"{method.title}, `specific: {specific}`", ALL, method.name, given)


def _data(method: Method, subject: Subject, tasks: Sequence[str]) -> dict[str, Any]:
    """Return the parameters that name what a method or a step measures on."""
    named = {parameter.name for parameter in method.parameters}
    found = dict.fromkeys(named & {"corpus", "calibration"}, str(subject.corpus))
    return found | ({"tasks": [*tasks], "run_code": True} if "tasks" in named else {})


def recipe(entry: Entry, subject: Subject) -> dict[str, Any]:
    """Return a row's recipe; a method that takes one model beside the base goes from the first fine-tune to it."""
    base, names = str(subject.base), [*subject.models][: 2 if entry.models == PAIR else None]
    if methods()[entry.method].most == 1:
        base, names = str(subject.models[names[0]]), names[1:]
    content: dict[str, Any] = {
        "merge_method": entry.method,
        "models": [{"model": str(subject.models[name])} for name in names],
        "parameters": dict(entry.parameters),
        **({"then": list(entry.then)} if entry.then else {}),
        "dtype": "float32",
    }
    return content | ({} if methods()[entry.method].base == "unused" else {"base_model": base})


def measure(entry: Entry, subject: Subject, work: Path) -> dict[str, Any]:
    """Merge and judge; a method that fails is told of."""
    file, out = work / "recipe.yaml", work / "merged"
    file.write_text(yaml.safe_dump(recipe(entry, subject)), encoding="utf-8")
    try:
        cost = run(ours(file, out))
    except RuntimeError as error:
        return {"title": entry.title, "failed": str(error).strip().splitlines()[-1]}
    # Not the operating system's figure, in which this process counts too: it has torch and a model.
    memory = json.loads((out / REPORT).read_text(encoding="utf-8"))["peak_memory"]
    merged = load_model(str(out), run_dtype="float32")
    texts = [*subject.texts.values()][: 2 if entry.models == PAIR else None]
    losses = [answer_losses(merged, own) for own in texts]
    return {"title": entry.title, "models": entry.models, "losses": losses, "cpu": cost.cpu, "memory": memory}


def print_table(found: Mapping[str, Mapping[str, Any]], names: list[str]) -> None:
    """Print a row per method, best first, those of all fine-tunes before those of two."""
    for models, reference in REFERENCE.items():
        own = {title: each for title, each in found.items() if each.get("models") == models}
        flat = {title: np.concatenate(each["losses"]) for title, each in own.items()}
        others = [title for title in sorted(flat, key=lambda title: flat[title].mean()) if title != reference]
        compared = dict(zip(others, compare_all([(flat[each], flat[reference]) for each in others]), strict=True))
        tasks = names[: len(own[reference]["losses"])]
        print(f"\n| merged: {models} | loss | {' | '.join(tasks)} | against {reference} | p | processor s | MB |")
        print("|---" * (len(tasks) + 6) + "|")
        for title in [reference, *others]:
            each = own[title]
            cells = [title, *(f"{value:.4f}" for value in (flat[title].mean(), *map(np.mean, each["losses"])))]
            if title == reference:
                cells += ["", ""]
            else:
                one = compared[title]
                span = f"{one.difference:+.4f} ({one.interval.low:+.4f} to {one.interval.high:+.4f})"
                cells += [f"**{span}**" if one.distinguishable else span, f"{one.adjusted:.2g}"]
            cells += [f"{each['cpu']:.1f}", f"{each['memory'] / 1e6:.0f}"]
            print(f"| {' | '.join(cells)} |")
    for title, each in found.items():
        if "failed" in each:
            print(f"{title}: {each['failed']}")


def main() -> None:
    """Measure the methods on a family and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", nargs="+", help="demo, or the folders of a family, its corpus and its texts")
    parser.add_argument("--texts", type=int, default=100, help="held-out texts of each task (100)")
    parser.add_argument(
        "--only", nargs="+", default=[""], help="words of titles: these rows beside the references alone"
    )
    parser.add_argument("--threads", type=int, default=0, help="of torch; as it chooses, if left out")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    work = cache_root() / "benchmarks"
    name, subject = subject_named(arguments.family, work, arguments.texts)
    kept, room = work / f"methods-{name}-{arguments.texts}.jsonl", work / f"methods-{name}"
    room.mkdir(exist_ok=True)
    tasks = room / "tasks"
    searched = (
        demo_tasks(cache_root() / DEMO, tasks, arguments.texts) if name == "demo" else predicted_tasks(subject, tasks)
    )
    lines = map(json.loads, kept.read_text().splitlines() if kept.exists() else [])
    found = {each["title"]: each for each in lines}
    wanted = [
        entry
        for entry in entries(subject, searched)
        if entry.title in REFERENCE.values() or any(words in entry.title for words in arguments.only)
    ]
    for entry in wanted:
        if entry.title not in found:
            found[entry.title] = measure(entry, subject, room)
            with kept.open("a") as file:
                file.write(json.dumps(found[entry.title]) + "\n")
            print(entry.title, found[entry.title].get("failed", "done"), flush=True)
    print_table({entry.title: found[entry.title] for entry in wanted}, [*subject.models])


if __name__ == "__main__":
    main()
