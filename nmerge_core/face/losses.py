"""Losses of models on held-out texts, and whether they differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from nmerge_core.comparison.paired import compare_all, mean_interval
from nmerge_core.comparison.score_tables import losses_as_scores
from nmerge_core.errors import InputError
from nmerge_core.face.results import BASE, model_colours
from nmerge_core.files.kept_files import read_csv

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Losses:
    """What models lose on the held-out texts of a corpus, in nats a token, a folder each; less is better.

    `merged` has the colours of those that NMerge has merged. A category's loss is the mean over its texts, each counted
    once.
    """

    paths: tuple[Path, ...]
    labels: tuple[str, ...]
    merged: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def texts(self) -> pd.DataFrame:
        """A row per model and text: model, category, text (its place in the category), loss, tokens, run_dtype."""
        frames = [
            read_csv(path / "losses.csv", ("model", "category", "text", "loss", "tokens")).assign(model=label)
            for path, label in zip(self.paths, self.labels, strict=True)
        ]
        return pd.concat(frames, ignore_index=True)

    @property
    def table(self) -> pd.DataFrame:
        """A row per model and category: model, category, loss, low, high (95 % interval), texts, tokens."""
        rows = []
        for (model, category), own in self.texts.groupby(["model", "category"], sort=False):
            interval = mean_interval(own["loss"])
            found = {"loss": own["loss"].mean(), "low": interval.low, "high": interval.high}
            rows.append(
                {"model": model, "category": category} | found | {"texts": len(own), "tokens": own["tokens"].sum()}
            )
        return pd.DataFrame(rows)

    @property
    def scores(self) -> pd.DataFrame:
        """The losses as scores are: a category stands as the task, and loss as its metric."""
        return losses_as_scores(self.texts)[0]

    @property
    def samples(self) -> pd.DataFrame:
        """The losses as samples of scores are: id is the text's place in its category, value its loss."""
        return losses_as_scores(self.texts)[1]

    def compare(self, baseline: str = BASE) -> pd.DataFrame:
        """Compare every model with one of them, text by text.

        Columns model, category, difference (below 0: better than the baseline), low, high (95 % interval), p, adjusted
        (p by Holm, over all rows), detectable (the least difference that so many texts show with 80 % power).

        Raises:
            InputError: no model is called so, or one's losses are no match for the baseline's, as they are of other
                tokens or of another number format.
        """
        if baseline not in self.labels:
            raise InputError(f"baseline {baseline!r}: expected one of {', '.join(self.labels)}")
        own = dict(list(self.texts.groupby(["model", "category"], sort=False)))
        others = [label for label in self.labels if label != baseline]
        keys = [(model, category) for model in others for category in self.texts["category"].unique()]
        for model, category in keys:
            _check_match(own[model, category], own[baseline, category], f"{model}, {category}", baseline)
        pairs = [(own[key]["loss"], own[baseline, key[1]]["loss"]) for key in keys]
        rows = [
            {"model": model, "category": category, "difference": each.difference}
            | {"low": each.interval.low, "high": each.interval.high, "p": each.p}
            | {"adjusted": each.adjusted, "detectable": each.detectable}
            for (model, category), each in zip(keys, compare_all(pairs), strict=True)
        ]
        return pd.DataFrame(rows)

    def figure(self, *, dark: bool = False) -> go.Figure:
        """Draw each category's loss, a point per model with its 95 % interval."""
        from nmerge_core.figures.intervals import points

        found = self.table.rename(columns={"loss": "value", "category": "row", "texts": "problems"})
        colours = model_colours(self.labels, self.merged, dark=dark)
        return points(found.assign(metric="loss"), colours, self.labels, dark=dark)


def _check_match(ours: pd.DataFrame, theirs: pd.DataFrame, name: str, baseline: str) -> None:
    if list(ours["tokens"]) != list(theirs["tokens"]):
        raise InputError(
            f"{name}: expected the tokens of {baseline}, found others: losses a token do not compare; leave it out"
        )
    formats = [str(each["run_dtype"].iloc[0]) for each in (ours, theirs)]
    if formats[0] != formats[1]:
        raise InputError(
            f"{name}: expected losses in {formats[1]}, as those of {baseline}, found {formats[0]}; give run_dtype"
        )
