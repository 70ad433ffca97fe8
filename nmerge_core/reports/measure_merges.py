"""What a report measures of merges: each is made in memory, one after the other, and scored on what it is for."""

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd

from nmerge_core.errors import InputError
from nmerge_core.merging.plan.coefficients import solve_coefficients
from nmerge_core.merging.plan.kept import Measurement
from nmerge_core.merging.recipe.reading import load_recipe
from nmerge_core.progress import Progress
from nmerge_core.reports.findings import BASE, Lacking
from nmerge_core.reports.measuring import Measuring
from nmerge_core.reports.subjects import Subject
from nmerge_core.reports.variants import Data, Variant
from nmerge_core.search.merging import Merges


def measure_merges(report: Measuring, folders: Mapping[str, Path]) -> None:
    """Score every merge of the plan; keep how long merging took, and why one that goes by data cannot be made."""
    if not report.scores:
        return
    if not folders:
        report.found = replace(report.found, texts=False)
    merging, times = _Merging(report, folders.get(BASE)), []
    for variant, effort in report.effort.merges(report.found.plan.merges(partial(_best, report))):
        if not merging.subjects(variant):  # its entries say that no task is that of its models
            continue
        with report.step(f"{variant.title}: {' + '.join(variant.models)}", effort) as told:
            try:
                frame = merging.scored(variant, told)
            except InputError as error:
                if not variant.by_data:
                    raise
                report.lack(str(error), variant.key)
                said = f"{variant.title} of {' + '.join(variant.models)} cannot be merged: {error}"
                report.found = replace(report.found, notes=(*report.found.notes, said))
                continue
        report.keep_scores(variant.key, frame[["subject", "problem", "value"]])
        times.append({"variant": variant.key, **frame[["merging", "scoring"]].iloc[0]})
        report.found = replace(report.found, times=pd.DataFrame(times))


def _best(report: Measuring, variants: Sequence[Variant]) -> Variant:
    """Return the best setting; the first one where no task is that of its models."""
    try:
        return report.found.best(variants)
    except Lacking:
        return variants[0]


class _Merging:
    """The merges of a report, each made of the one before where it can be."""

    def __init__(self, report: Measuring, neurons: Path | None) -> None:
        """Begin with none; `neurons` is the base's classification."""
        self._report, family, budget = report, report.family, report.budget
        self._print = report.print_of(neurons) if neurons else ""
        self._data = Data(
            corpus=family.corpus,
            neurons=str(neurons) if neurons else None,
            samples=budget.samples,
            tasks=tuple(dict.fromkeys(subject.task for subject in report.found.subjects if subject.owner)),
            problems=report.found.validation,
            run_code=report.run_code,
        )
        self._merges: Merges | None = None

    def scored(self, variant: Variant, told: Progress) -> pd.DataFrame:
        """Return subject, problem, value, and in every row the seconds of merging and scoring."""
        report, folder = self._report, self._report.parts.folder / ".merging"
        recipe = variant.recipe(report.family, self._data)
        named = recipe | {"parameters": recipe["parameters"] | {"neurons": self._print}}
        read, subjects = load_recipe(recipe), self.subjects(variant)
        versions = {of: each for of, each in read.in_full(report.places)[1].items() if each.startswith("version ")}

        def make() -> pd.DataFrame:
            if self._merges is None:
                self._merges = Merges(read, report.device, "auto", self._solved)
            started = time.monotonic()
            with self._merges.merged(read, folder, told) as language_model:
                merged = time.monotonic()
                frame = report.scored(language_model, told, subjects)
            return frame.assign(merging=merged - started, scoring=time.monotonic() - merged)

        try:
            return report.parts.frame("merge", report.asked(subjects) | {"recipe": named, "by": versions}, make)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def subjects(self, variant: Variant) -> list[Subject]:
        """Return what its models were made for; all, where the papers look at other tasks as well."""
        found = self._report.found
        if found.plan.everywhere(variant):
            return list(found.subjects)
        return [subject for subject in found.subjects if subject.owner in variant.models]

    def _solved(self, measurements: Sequence[Measurement]) -> list[Path | None]:
        """Find what merges go by in finished runs, or among the parts of the report, where it is kept once solved."""
        found = self._report.kept(measurements)
        return [there or self._solve(each) for there, each in zip(found, measurements, strict=True)]

    def _solve(self, measurement: Measurement) -> Path | None:
        if measurement.kind != "coefficients":
            return None
        asked = dict(measurement.parameters)
        named = asked | {"neurons": self._print}

        def make(out: Path) -> None:
            solved = solve_coefficients(**asked)
            out.mkdir()
            solved.write(out)
            for warning in solved.warnings:
                logging.warning(warning)

        return self._report.parts.folder_of("coefficients", named, make)
