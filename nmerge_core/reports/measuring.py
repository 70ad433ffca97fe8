"""One report on its way: what it has found, the parts it keeps, how far it is, and how a model is scored for it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from nmerge_core.errors import InputError
from nmerge_core.family import Family
from nmerge_core.inputs import Places
from nmerge_core.loading import LanguageModel
from nmerge_core.merging.plan.kept import Kept
from nmerge_core.progress import Progress
from nmerge_core.reports.budget import Budget
from nmerge_core.reports.effort import Effort, effort_of
from nmerge_core.reports.findings import Findings
from nmerge_core.reports.parts import Parts
from nmerge_core.reports.subjects import Score, Subject


@dataclass
class Measuring:
    """One report on its way: what it has, what it keeps, and how far it is.

    `found` grows table by table, so that what is there can be shown whenever the report is stopped. What measurements
    take is counted in scorings of a model (`effort`): `done` are those made now, and `there` those made before, which
    take no time: what is told is how many of the others are done.
    """

    found: Findings
    scores: Sequence[tuple[Subject, Score]]
    parts: Parts
    places: Places
    device: str
    run_code: bool
    kept: Kept
    progress: Progress
    done: float = 0
    there: float = 0
    effort: Effort = field(init=False)

    def __post_init__(self) -> None:
        """Foresee what all will take."""
        self.foresee()

    def foresee(self) -> None:
        """Count anew what all will take, by what is to be merged as far as it is known now."""
        self.effort = effort_of(self.found.plan, [subject for subject, _ in self.scores])
        self._total = self.effort.total

    @property
    def family(self) -> Family:
        """The family."""
        return self.found.family

    @property
    def budget(self) -> Budget:
        """How much is measured."""
        return self.found.budget

    @property
    def labels(self) -> list[str]:
        """The fine-tunes."""
        return [model.label for model in self.family.models]

    @contextmanager
    def step(self, name: str, effort: float) -> Iterator[Progress]:
        """Tell of one step of the whole; what it tells itself says how much of it is done."""
        share, made = 0.0, self.parts.made

        def told(stage: str, done: float, total: float, unit: str = "") -> None:
            nonlocal share
            share = max(share, min(0.99, done / max(total, 1)))  # of its first stage, which is the longest
            self._tell(self.done + effort * share, f" ({name})")

        told(name, 0, 1)
        yield told
        if self.parts.made > made:
            self.done += effort
        else:
            self.there += effort
        self._tell(self.done)

    def _tell(self, done: float, what: str = "") -> None:
        left = round(self._total - self.there, 6)  # efforts are fractions, which add up to a whole within rounding
        self.progress("Report", min(done, left), left, f"scorings{what}")

    def tell(self, name: str, make: Callable[[], pd.DataFrame]) -> None:
        """Keep a table, or why it cannot be made."""
        try:
            self.found = replace(self.found, **{name: make()})
        except InputError as error:
            self.lack(str(error), name)

    def lack(self, why: str, *names: str) -> None:
        """Keep why tables cannot be made."""
        self.found = replace(self.found, lacks={**self.found.lacks, **dict.fromkeys(names, why)})

    def print_of(self, neurons: Path) -> str:
        """Return what tells a classification from others."""
        return self.places.classification(str(neurons))[1]

    def asked(self, subjects: Sequence[Subject]) -> dict[str, Any]:
        """Return what decides the scores of any model on subjects: which problems, and of which task or corpus."""
        problems = [(each.name, each.count, each.task or self.family.corpus) for each in subjects]
        return {"subjects": problems, "device": self.device}

    def scored(self, language_model: LanguageModel, told: Progress, subjects: Sequence[Subject]) -> pd.DataFrame:
        """Score a model on subjects; return subject, problem, value."""
        wanted = {subject.name for subject in subjects}
        chosen = [(subject, score) for subject, score in self.scores if subject.name in wanted]
        frames = []
        for place, (subject, score) in enumerate(chosen):

            def within(stage: str, done: float, total: float, unit: str = "", place: int = place) -> None:
                told(stage, place + min(1.0, done / max(total, 1)), len(chosen))

            values = score(language_model, within)
            own = {"subject": subject.name, "problem": range(len(values)), "value": values}
            frames.append(pd.DataFrame(own))
        return pd.concat(frames, ignore_index=True)

    def keep_scores(self, key: str, frame: pd.DataFrame) -> None:
        """Keep the scores of the base, a fine-tune or a merge, by its key."""
        before = [] if self.found.scores is None else [self.found.scores]
        scores = pd.concat([*before, frame.assign(variant=key)], ignore_index=True)
        self.found = replace(self.found, scores=scores)


def called(names: pd.Series, labels: Sequence[str]) -> pd.Series:
    """Return the labels of models whose short names stand in the order in which they were given."""
    return names.map(dict(zip(dict.fromkeys(names), labels, strict=True)))
