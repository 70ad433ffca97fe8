"""What was measured for a report, as tables, and what is asked of them again and again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nmerge_core.family import Family
from nmerge_core.figures.scores import metric
from nmerge_core.labelling.tables import Labels
from nmerge_core.reports.budget import Budget
from nmerge_core.reports.intervals import Documents, Values, combined, mean
from nmerge_core.reports.plan import Plan
from nmerge_core.reports.subjects import Subject
from nmerge_core.reports.variants import Variant
from nmerge_core.reports.verdicts import NOT_YET, Verdict, nothing, signed

BASE = "base"
# What the models are, as far as the papers' tables tell them apart.
WRITING, T5, VISION = "language models", "sequence-to-sequence models", "models that see images"


class Lacking(Exception):
    """Something of a report cannot be made; the message says why."""


def untested(lacking: Lacking) -> Verdict:
    """Return the verdict where something lacks."""
    return Verdict(NOT_YET, str(lacking)) if isinstance(lacking, NotYet) else nothing(str(lacking))


def documents(subjects: Sequence[Subject]) -> Documents:
    """Return the documents of the problems of several subjects, by subject."""
    return [subject.documents for subject in subjects]


class NotYet(Lacking):
    """It was not measured before the report was stopped."""


@dataclass(frozen=True)
class Findings:
    """The tables of a report; one that cannot be made, or is not there yet, is None, and `lacks` says why by its name.

    `kind` is what the models are: `WRITING`, `T5` or `VISION`.

    `scores` has columns variant, subject, problem, value; `times` variant, merging, scoring (seconds), and
    `classifying` are the seconds of the base's classification, `kept_by_chance` the share of neurons that keep a random
    category. `neurons` has model, layer, neuron, category; `knockout`
    category, group, proportion, seed, neurons, subject, problem, value; `linearity` what `nonlinearity.by_chance`
    gives; `steps` model, part, change (‖τ‖), weight (‖θ0‖), parameters; `changes` model,
    layer, neuron, change; `exemplars` category, layer, neuron, text. `labels` are those of a labelling of the base that
    was there.
    """

    family: Family
    budget: Budget
    texts: bool
    tasks: bool = False
    kind: str = WRITING
    subjects: tuple[Subject, ...] = ()
    scores: pd.DataFrame | None = None
    times: pd.DataFrame | None = None
    classifying: float = float("nan")
    kept_by_chance: float = float("nan")
    neurons: pd.DataFrame | None = None
    counts: pd.DataFrame | None = None
    cosine: pd.DataFrame | None = None
    knockout: pd.DataFrame | None = None
    linearity: pd.DataFrame | None = None
    steps: pd.DataFrame | None = None
    changes: pd.DataFrame | None = None
    exemplars: pd.DataFrame | None = None
    labels: Labels | None = None
    lacks: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def plan(self) -> Plan:
        """The merges."""
        return Plan(self.family, self.budget, self.texts, self.tasks)

    def table(self, name: str) -> pd.DataFrame:
        """Return a table; raises Lacking, with why, where there is none."""
        found: pd.DataFrame | None = getattr(self, name)
        if found is None:
            if name in self.lacks:
                raise Lacking(self.lacks[name])
            raise NotYet("It is not measured yet: the report was stopped before.")
        return found

    def judged(self, judge: Callable[["Findings"], Verdict]) -> Verdict:
        """Return a verdict, which several entries may share; nothing to test, and why, where something lacks."""
        if judge not in self._verdicts:
            try:
                self._verdicts[judge] = judge(self)
            except Lacking as lacking:
                self._verdicts[judge] = untested(lacking)
        return self._verdicts[judge]

    @cached_property
    def _verdicts(self) -> dict[Callable[["Findings"], Verdict], Verdict]:
        return {}

    @property
    def validation(self) -> int:
        """How many problems of each task a setting is chosen by where others test it: half of them at the most."""
        halves = [max(1, subject.count // 2) for subject in self.subjects if subject.owner]
        return min([self.budget.validation, *halves])

    @cached_property
    def split(self) -> tuple["Findings", "Findings"]:
        """The findings on the problems that settings are chosen by, and on those that test them, of other documents.

        Raises:
            Lacking: a fine-tune's task has none of these.
        """
        first, chosen, tested, places = self.validation, [], [], []
        for subject in self.subjects:
            if not subject.owner:
                continue
            seen = set(subject.documents[:first])
            left = [place for place, document in enumerate(subject.documents) if document not in seen]
            if not left:
                raise Lacking(f"{subject.name} has too few problems, or documents, to leave some to test a setting by.")
            chosen.append(replace(subject, count=first, clusters=subject.clusters[:first]))
            tested.append(replace(subject, count=len(left), clusters=tuple(subject.documents[place] for place in left)))
            places += [(subject.name, place) for place in left]
        scores = self.table("scores")
        rest = pd.MultiIndex.from_frame(scores[["subject", "problem"]]).isin(places)
        return (
            replace(self, subjects=tuple(chosen), scores=scores[scores["problem"] < first]),
            replace(self, subjects=tuple(tested), scores=scores[rest]),
        )

    def owned(self, models: Sequence[str]) -> list[Subject]:
        """Return what fine-tunes were made for, in their order; raises Lacking where one of them has nothing."""
        owners = {subject.owner: subject for subject in self.subjects}
        if missing := [model for model in models if model not in owners]:
            raise Lacking(
                f"No task is that of {missing[0]}: none has its name, and on none does it gain on the base."
                if self.subjects
                else self.lacks.get("scores", "Nothing is scored.")
            )
        return [owners[model] for model in models]

    @property
    def foreign(self) -> list[Subject]:
        """What no fine-tune was made for."""
        return [subject for subject in self.subjects if not subject.owner]

    def values(self, variant: str | Variant, subjects: Sequence[Subject]) -> Values:
        """Return the points of a variant, of the base or of a fine-tune, problem by problem.

        Raises:
            Lacking: it was not scored on one of the subjects.
        """
        key, scored = variant if isinstance(variant, str) else variant.key, self._scored
        if missing := [subject.name for subject in subjects if (key, subject.name) not in scored]:
            raise NotYet(f"{key} is not scored on {missing[0]}: the report was stopped before.")
        return [subject.points(scored[key, subject.name]) for subject in subjects]

    def joined(self, variant: str | Variant, subjects: Sequence[Subject]) -> NDArray[np.float64]:
        """Return the points of all problems of several subjects, one subject after the other."""
        return np.concatenate(self.values(variant, subjects))

    @cached_property
    def _scored(self) -> dict[tuple[str, str], NDArray[np.float64]]:
        """What was scored problem by problem, by variant and subject."""
        frame = self.table("scores").sort_values("problem")
        return {
            (str(variant), str(subject)): own["value"].to_numpy(np.float64)
            for (variant, subject), own in frame.groupby(["variant", "subject"])
        }

    def mean(self, variant: str | Variant, subjects: Sequence[Subject]) -> float:
        """Return a variant's mean points over subjects."""
        return mean(self.values(variant, subjects))

    def best(self, variants: Sequence[Variant]) -> Variant:
        """Return the setting of the highest mean over what its models were made for, as the papers choose it."""
        return max(variants, key=lambda variant: self.mean(variant, self.owned(variant.models)))

    @property
    def lower_is_better(self) -> bool:
        """Whether all is judged by something of which less is better, such as loss: numbers are shown as that."""
        return all(not subject.higher_is_better for subject in self.subjects if subject.owner)

    @property
    def unit(self) -> str:
        """What points are shown in."""
        own = [subject for subject in self.subjects if subject.owner] or list(self.subjects)
        if all(subject.share for subject in own):
            return "%"
        metrics = {subject.metric for subject in own}
        return metric(metrics.pop()).title if len(metrics) == 1 else "points"

    @property
    def of_cost(self) -> str:
        """What is shown in that something costs, more being worse."""
        return "points" if self.unit == "%" else self.unit

    @property
    def of_change(self) -> str:
        """What differences are shown in, more being better."""
        return f"{self.of_cost} (+ is lower)" if self.lower_is_better else self.of_cost

    @property
    def digits(self) -> int:
        """Decimals that scores are told with: losses differ in their third."""
        return 1 if self.unit == "%" else 3

    def write(self, points: float) -> str:
        """Write a difference in points, more being better, with its sign."""
        return signed(points, self.digits)

    def shown(self, points: float) -> float:
        """Return points as they are shown."""
        return -points if self.lower_is_better else points

    def score_table(self, rows: Mapping[str, str | Variant], subjects: Sequence[Subject]) -> pd.DataFrame:
        """Return a row per variant: its score on each subject and their mean, with the mean's interval."""
        table = []
        for title, variant in rows.items():
            values = self.values(variant, subjects)
            found = combined([values], [1.0], documents(subjects))
            ends = sorted((self.shown(found.low), self.shown(found.high)))
            scores = {
                subject.name: self._of_subject(subject, own) for subject, own in zip(subjects, values, strict=True)
            }
            table.append({"method": title, **scores, "mean": self.shown(found.value), "low": ends[0], "high": ends[1]})
        return pd.DataFrame(table)

    @staticmethod
    def _of_subject(subject: Subject, points: NDArray[np.float64]) -> float:
        value = float(points.mean())
        return value if subject.higher_is_better else -value
