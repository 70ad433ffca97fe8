"""What models are judged by in a report: problems of tasks or held-out texts, and which fine-tune each is the task of.

Statistics are in points, of which more is better: percent of a share, another metric as it is, the negative of one of
which less is better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nmerge_core.errors import InputError
from nmerge_core.family import Family
from nmerge_core.figures.scores import metric
from nmerge_core.inputs import Places
from nmerge_core.progress import Progress

if TYPE_CHECKING:
    from nmerge_core.evaluation.problems import Problems, Source
    from nmerge_core.loading import LanguageModel


@dataclass(frozen=True)
class Subject:
    """One kind of problems: a task, or the held-out texts of a category; `owner` is the fine-tune that was made for it.

    `task` is the task as the family names it, whose problems they are, and `said` tells which texts are held out.
    `clusters` has the document of each problem where they share some.
    """

    name: str
    metric: str
    higher_is_better: bool
    count: int
    owner: str = ""
    said: str = ""
    task: str = ""
    clusters: tuple[str, ...] = ()

    @property
    def documents(self) -> tuple[str, ...]:
        """What each problem is of: its document, or a document of its own."""
        return self.clusters or tuple(map(str, range(self.count)))

    @property
    def share(self) -> bool:
        """Whether its values are shares."""
        return metric(self.metric).share

    def points(self, values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return values as points."""
        sign = 1.0 if self.higher_is_better else -1.0
        return sign * (100.0 if self.share else 1.0) * np.asarray(values, np.float64)


Score = Callable[["LanguageModel", Progress], list[float]]


def open_subjects(
    family: Family, problems: int, places: Places, *, run_code: bool, allow_task_code: bool
) -> list[tuple[Subject, Score]]:
    """Return what a family's models are judged by: its tasks or, where it has none, its corpus's held-out texts.

    Raises:
        InputError: a task or the corpus cannot be read, or the tasks give single problems no value.
    """
    # Imported here: it brings lm-evaluation-harness along, which the entries of a report do not need.
    from nmerge_core.evaluation.problems import Source, open_problems

    if family.tasks:
        sources = [Source(task, places.task(task)[1], True, run_code, allow_task_code) for task in family.tasks]
    elif family.corpus:
        sources = [Source(family.corpus, places.corpus(family.corpus)[1], is_task=False)]
    else:
        return []
    found = [_subject(each, problems, source) for source in sources for each in open_problems(source)]
    names = [subject.name for subject, _ in found]
    if twice := next((subject for subject, _ in found if names.count(subject.name) > 1), None):
        told = " and ".join(own.task for own, _ in found if own.name == twice.name)
        raise InputError(
            f"tasks: expected tasks of different names, found '{twice.name}' in {told}; rename one of them"
        )
    named = {subject.name: subject for subject, _ in found}
    owned = {model.category or model.label: model.label for model in family.models}
    owned |= {model.label: model.label for model in family.models}
    return [(replace(named[each.name], owner=owned.get(each.name, "")), score) for each, score in found]


def _subject(problems: Problems, limit: int, source: Source) -> tuple[Subject, Score]:
    count, task = min(problems.count, limit), source.reference if source.is_task else ""
    subject = Subject(
        problems.name,
        problems.metric,
        problems.higher_is_better,
        count,
        said=problems.said,
        task=task,
        clusters=problems.clusters[:count],
    )

    def score(language_model: LanguageModel, progress: Progress) -> list[float]:
        return problems.score(language_model, 0, count, progress)[0]

    return subject, score


def owned_by_gain(subjects: Sequence[Subject], gains: Mapping[tuple[str, str], float]) -> list[Subject]:
    """Give each fine-tune without a task of its name the one that nobody owns and on which it gains most.

    Args:
        subjects: the tasks.
        gains: in points, by fine-tune and task.
    """
    owners = {subject.name: subject.owner for subject in subjects}
    for (model, name), gain in sorted(gains.items(), key=lambda item: -item[1]):
        if gain > 0 and not owners[name] and model not in owners.values():
            owners[name] = model
    return [replace(subject, owner=owners[subject.name]) for subject in subjects]
