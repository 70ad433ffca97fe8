"""Scores of models on tasks, what the models answered, and whether they differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from nmerge_core.comparison import score_tables
from nmerge_core.errors import InputError
from nmerge_core.face.results import BASE, model_colours

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Scores:
    """What models score on tasks, a folder each; `merged` has the colours of those that NMerge has merged."""

    paths: tuple[Path, ...]
    labels: tuple[str, ...]
    merged: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """A row per model, task and metric: value, its 95 % interval (low, high, and what it is by), stderr, samples.

        A `group` of tasks has rows too. Then whether higher_is_better, and the conditions: shots, chat_template,
        decoding, batch_size (asked for; batch_used fitted in memory), seed, run_dtype, task_version and lm_eval, the
        version that scored it.
        """
        named = zip(self.paths, self.labels, strict=True)
        found = [score_tables.read_scores(path / "scores.csv").assign(model=label) for path, label in named]
        return pd.concat(found, ignore_index=True)

    @cached_property
    def samples(self) -> pd.DataFrame:
        """A row per model and problem: task, id, prompt, answer, filtered answer, reference, metric, value, error."""
        named = zip(self.paths, self.labels, strict=True)
        found = [score_tables.read_samples(path / "samples.jsonl").assign(model=label) for path, label in named]
        return pd.concat(found, ignore_index=True)

    @property
    def table(self) -> pd.DataFrame:
        """A row per model, a column per task and metric, with 95 % intervals."""
        from nmerge_core.figures.scores import table

        return table(self.scores, self.labels)

    @property
    def leaderboard(self) -> pd.DataFrame:
        """A row per model and numbers per task, shares in percent; first their mean, its gain over "base" and, of what
        each task's own fine-tune gained by more than chance, the share that is kept. A fine-tune is a task's own if it
        is called so, else if it is the best at it.
        """
        from nmerge_core.figures.leaderboard import leaderboard, own_fine_tunes, sure_gains

        if BASE not in self.labels:
            return leaderboard(self.scores, self.labels)
        tuned = {label: label for label in self.labels if label != BASE and label not in self.merged}
        own = sure_gains(self.compare(BASE), own_fine_tunes(self.scores, tuned))
        return leaderboard(self.scores, self.labels, base=BASE, own=own)

    def compare(self, baseline: str = BASE) -> pd.DataFrame:
        """Compare every model with one of them, problem by problem, by each task's primary metric.

        Columns model, task, metric, problems, difference, low, high (95 % interval), p, adjusted (p by Holm, over all
        rows), detectable (the least difference that so many problems show with 80 % power), test, verdict, and unlike:
        why two scores do not compare, such as by settings that differ. Of a metric of all problems together, as chrF
        of a corpus, it is each problem's own value that is compared.

        Raises:
            InputError: no model is called so.
        """
        if baseline not in self.labels:
            raise InputError(f"baseline {baseline!r}: expected one of {', '.join(self.labels)}")
        return score_tables.compare(self.scores, self.samples, baseline)

    def sides(self, task: str, model: str, against: str = BASE) -> pd.DataFrame:
        """Put two models' answers to a task side by side; `side` of each problem is lost, gained, both or neither.

        Raises:
            InputError: no task or model is called so.
        """
        kept = score_tables.primary(self.scores)
        for name, known in ((model, self.labels), (against, self.labels), (task, tuple(kept["task"].unique()))):
            if name not in known:
                raise InputError(f"{name!r}: expected one of {', '.join(known)}")
        row = kept[kept["task"] == task].iloc[0]
        better = bool(row["higher_is_better"])
        return score_tables.sides(self.samples, task, str(row["metric"]), model, against, better=better)

    def figure(self, *, dark: bool = False) -> go.Figure:
        """Draw each task's primary metric, a bar per model, with 95 % intervals."""
        from nmerge_core.figures.scores import bars

        base = self.labels[0] if self.labels[0] == BASE else ""
        return bars(self.scores, model_colours(self.labels, self.merged, dark=dark), self.labels, base=base, dark=dark)
