"""What a report measures by answers of models on the disk: what each scores, and what the base's neurons are for."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd

from nmerge_core.ablation import category_neurons, plan
from nmerge_core.activations.hooks import knock_out
from nmerge_core.activations.store import open_classification
from nmerge_core.kinds import SCORED
from nmerge_core.loading import LanguageModel, load_model
from nmerge_core.progress import Progress
from nmerge_core.reports.findings import BASE
from nmerge_core.reports.measuring import Measuring
from nmerge_core.reports.subjects import Subject, owned_by_gain


def measure_alone(report: Measuring) -> None:
    """Score the base and the fine-tunes, and see what each was made for."""
    subjects = [subject for subject, _ in report.scores]
    if not subjects:
        why = "This family names neither tasks nor a corpus"
        found = {"scores": f"{why}: there is nothing to judge models by.", "knockout": f"{why}.", "times": f"{why}."}
        report.found = replace(
            report.found, lacks={**found, **report.found.lacks}
        )  # where they are not read, that is told
        return
    report.found = replace(report.found, subjects=tuple(subjects))
    for member in report.family.members:
        with report.step(f"scores of {member.label}", 1) as told:
            asked = report.asked(subjects) | {"model": member.reference}
            frame = report.parts.frame("scores", asked, partial(_alone, report, member.reference, subjects, told))
            report.keep_scores(member.label, frame)
    gains = {
        (label, subject.name): report.found.mean(label, [subject]) - report.found.mean(BASE, [subject])
        for label in report.labels
        for subject in subjects
    }
    report.found = replace(report.found, subjects=tuple(owned_by_gain(subjects, gains)))


def _alone(report: Measuring, reference: str, subjects: list[Subject], told: Progress) -> pd.DataFrame:
    return report.scored(load_model(reference, report.device, kinds=SCORED), told, subjects)


def measure_knockouts(report: Measuring, folders: Mapping[str, Path]) -> None:
    """Measure the table `knockout`: each fine-tune's task by the base without its category's neurons, or as many."""
    if not folders or not report.scores:
        return
    classification, silenced = open_classification(folders[BASE]), _Silenced(report)
    frames, found = [], set(classification.neurons()["category"])
    for model in report.family.models:
        own = [subject for subject in report.found.subjects if subject.owner == model.label]
        if not own or model.category not in found:
            continue
        members = category_neurons(classification, model.category, classification.layers)
        seeds = range(report.budget.repeats)
        for trial in plan(members, classification.widths, model.category, report.budget.proportions, seeds):
            name = f"{trial.size} {trial.group} neurons off"
            with report.step(name, report.effort.knockout) as told:
                frame = silenced.scored(trial.neurons, own, told)
            facts = {"category": model.category, "group": trial.group, "proportion": trial.proportion}
            frames.append(frame.assign(**facts, seed=trial.seed, neurons=trial.size))
    if frames:
        report.found = replace(report.found, knockout=pd.concat(frames, ignore_index=True))
    else:
        report.lack("No neuron of the base is of the category of a fine-tune with a task.", "knockout")


class _Silenced:
    """The base, loaded once and only where something is to be measured, with neurons of its switched off."""

    def __init__(self, report: Measuring) -> None:
        self._report = report

    def scored(self, off: Mapping[int, Any], subjects: list[Subject], told: Progress) -> pd.DataFrame:
        report = self._report
        neurons = {str(layer): own.tolist() for layer, own in off.items()}

        def make() -> pd.DataFrame:
            with knock_out(self._base.model, self._base.architecture, off):
                return report.scored(self._base, told, subjects)

        asked = report.asked(subjects) | {"model": report.family.base, "neurons": neurons}
        return report.parts.frame("knockout", asked, make)

    @cached_property
    def _base(self) -> LanguageModel:
        return load_model(self._report.family.base, self._report.device, kinds=SCORED)
