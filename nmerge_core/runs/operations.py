"""What the worker does: one function per kind of run."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nmerge_core.progress import Progress
from nmerge_core.runs.held import beside_what_is_held
from nmerge_core.runs.kept import earlier_classifications, finished_results, newest_labels
from nmerge_core.runs.perform import Operation

# The bodies import what they need: the page process knows these names without importing torch.


def classify(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write a classification folder; a killed classification goes on after the exemplars that it noted last.

    Of a corpus that has grown since the model was classified only the new texts are run.
    """
    from nmerge_core.classification.classification import classify

    classify(**parameters, out=results, in_place=True, earlier=earlier_classifications(parameters), progress=progress)


def cosine(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write cosine.csv (mean, percentiles per model, layer and matrix), moved.csv (the neurons that moved most),
    turned.parquet (every neuron) and between.parquet (every neuron of every two fine-tunes).
    """
    from nmerge_core.similarity.measure import cosine

    found = cosine(parameters["base"], parameters["models"], progress=progress)
    found.summary.to_csv(results / "cosine.csv", index=False)
    found.moved.to_csv(results / "moved.csv", index=False)
    found.neurons.to_parquet(results / "turned.parquet", index=False)
    found.between.to_parquet(results / "between.parquet", index=False)


def interference(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write interference.csv: a row for each matrix of a layer."""
    from nmerge_core.conflict import interference

    interference(**parameters, progress=progress).to_csv(results / "interference.csv", index=False)


def inherited(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write inherited.parquet: what each neuron of a merge kept of each fine-tune's change."""
    from nmerge_core.inheritance.measure import inherited

    inherited(**parameters, progress=progress).to_parquet(results / "inherited.parquet", index=False)


def knockout(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write knockout.csv and effects.csv; a stopped knock-out goes on after what it has measured last."""
    from nmerge_core.ablation import knockout

    knockout(**parameters, out=results, progress=progress)


def effects(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write effects.csv; goes on as a knock-out does."""
    from nmerge_core.ablation import effects

    effects(**parameters, out=results, progress=progress)


def label(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write labels.csv, asked.jsonl and meta.json; a stopped labelling goes on after the last answer."""
    from nmerge_core.labelling.work import label_neurons

    label_neurons(**parameters, out=results, progress=progress)


def linearity(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write linearity.csv; by_chance.csv where neurons have categories; coefficients.csv where models have."""
    from nmerge_core import nonlinearity

    shared = {name: parameters[name] for name in ("base", "models", "corpus", "samples", "seed", "device")}
    nonlinearity.measure(**shared, neurons=parameters["neurons"], progress=progress).to_csv(
        results / "linearity.csv", index=False
    )
    if parameters["neurons"]:
        compared = nonlinearity.by_chance(
            **shared, neurons=parameters["neurons"], draws=parameters["draws"], progress=progress
        )
        if not compared.empty:
            compared.to_csv(results / "by_chance.csv", index=False)
    if parameters["categories"]:
        solved = nonlinearity.solve(**shared, categories=parameters["categories"], progress=progress)
        solved.to_frame().to_csv(results / "coefficients.csv", index=False)
        for warning in solved.warnings:
            logging.warning(warning)


def coefficients(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write coefficients.json, for merges, and coefficients.csv, for people."""
    from nmerge_core.merging.plan.coefficients import solve_coefficients

    solved = solve_coefficients(**parameters, progress=progress)
    solved.write(results)
    solved.to_frame().to_csv(results / "coefficients.csv", index=False)


def statistics(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write a statistics folder."""
    from nmerge_core.calibration import collect

    collect(**parameters, out=results, progress=progress)


def merge(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write merged/, a complete checkpoint; a killed merge continues where it stopped (mergekit's begins again)."""
    from nmerge_core.merging.engine import load, merge

    out = results / "merged"
    if not out.exists():  # else the process was killed between the end of the merge and the end of the run
        merge(load(parameters["recipe"]), out, device=parameters["device"], progress=progress, kept=finished_results)


def combine(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write adapter/, which PEFT opens."""
    from nmerge_core.core_space import combine

    combine(**parameters, out=results / "adapter", progress=progress)


def extract(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write adapter/, which PEFT opens, and changes.csv."""
    from nmerge_core.lora.extract import extract

    extract(**parameters, out=results / "adapter", progress=progress).to_csv(results / "changes.csv", index=False)


def evaluate(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write scores.csv, and samples.jsonl with what was asked and answered."""
    from nmerge_core.evaluation import evaluate

    found = evaluate(**parameters, samples=results / "samples.jsonl", progress=progress)
    found.to_csv(results / "scores.csv", index=False)


def loss(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write losses.csv."""
    from nmerge_core.evaluation.loss import held_out_losses

    held_out_losses(**parameters, progress=progress).to_csv(results / "losses.csv", index=False)


def sweep(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write trials.csv, best.yaml and what the sweep keeps; a stopped sweep goes on after its last trial."""
    from nmerge_core.search.reading import load_sweep
    from nmerge_core.search.trials_loop import sweep

    plan = load_sweep(parameters["sweep"])
    given = {name: value for name, value in parameters.items() if name != "sweep"}
    sweep(plan, results, **given, progress=progress, kept=finished_results)


def report(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write index.html, report.ipynb, tables, figures and what was measured; a stopped report goes on where it was."""
    from nmerge_core.reports.make import make_report
    from nmerge_core.reports.parameter import open_family

    given = {name: value for name, value in parameters.items() if name != "family"}
    family = open_family(parameters["family"])
    labelled = newest_labels(family.base, family.corpus)
    make_report(family, results, **given, in_cache=True, labelled=labelled, progress=progress, kept=finished_results)


_RUNS = (
    classify, cosine, interference, inherited, knockout, effects, label, linearity, coefficients, statistics, merge,
    combine, extract, evaluate, loss, sweep, report,
)  # fmt: skip
OPERATIONS: dict[str, Operation] = {operation.__name__: beside_what_is_held(operation) for operation in _RUNS}
