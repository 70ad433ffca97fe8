"""What a report measures of weights alone: cosines with the base, how far tuning went, and what each neuron changed."""

from collections.abc import Callable

import pandas as pd

from nmerge_core.inheritance.measure import inherited
from nmerge_core.progress import Progress
from nmerge_core.reports.measuring import Measuring, called
from nmerge_core.reports.steps import steps
from nmerge_core.similarity.measure import cosine


def measure_weights(report: Measuring) -> None:
    """Measure the tables `cosine`, `steps` and `changes`."""
    base, models = report.family.base, {model.label: model.reference for model in report.family.models}

    def frame_of(name: str, make: Callable[[], pd.DataFrame]) -> None:
        report.tell(name, lambda: report.parts.frame(name, {base: models}, make))

    with report.step("cosine similarity", report.effort.weights) as told:
        frame_of("cosine", lambda: _cosines(report, told))
    with report.step("steps of tuning", report.effort.weights) as told:
        frame_of("steps", lambda: steps(base, models, told))
    with report.step("changes of neurons", report.effort.weights) as told:
        frame_of("changes", lambda: _changes(report, told))


def _cosines(report: Measuring, told: Progress) -> pd.DataFrame:
    summary = cosine(report.family.base, report.family.references, progress=told).summary
    return summary.assign(model=called(summary["model"], report.labels))


def _changes(report: Measuring, told: Progress) -> pd.DataFrame:
    first, *_ = references = report.family.references
    frame = inherited(first, report.family.base, references, progress=told)
    return frame[["layer", "neuron", "change"]].assign(model=called(frame["model"], report.labels))
