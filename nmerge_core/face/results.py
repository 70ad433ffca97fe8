"""What the public functions return: tables as data frames, figures of them, and the folder where the files are.

A result stands for its folder wherever a path is taken: `nm.evaluate(nm.merge(…), tasks=…)`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from nmerge_core.checkpoints import FamilyReport
from nmerge_core.figures import style
from nmerge_core.figures.merge import coefficients as coefficients_figure

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from nmerge_core.activations.store import Classification

BASE = "base"


@dataclass(frozen=True)
class Result:
    """A finished run: `path` is the folder of what it wrote."""

    path: Path

    def __fspath__(self) -> str:
        """Stand for the folder."""
        return str(self.path)

    def _table(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.path / name)


@dataclass(frozen=True)
class Inspection:
    """What the headers of models say, and whether they can be merged."""

    report: FamilyReport

    @property
    def mergeable(self) -> bool:
        """Whether nothing speaks against merging."""
        return self.report.mergeable

    @property
    def errors(self) -> tuple[str, ...]:
        """What speaks against it."""
        return self.report.errors

    @property
    def warnings(self) -> tuple[str, ...]:
        """What one should know."""
        return self.report.warnings

    @property
    def models(self) -> pd.DataFrame:
        """A row per model: label, type, layers, widths, parameters, dtype, size."""
        return pd.DataFrame([vars(model) for model in self.report.models])


@dataclass(frozen=True)
class Classifications:
    """The neuron categories of one model or of several, the base's first; one folder each."""

    paths: tuple[Path, ...]
    labels: tuple[str, ...]

    def __fspath__(self) -> str:
        """Stand for the folder of the first model."""
        return str(self.paths[0])

    @property
    def path(self) -> Path:
        """The folder of the first model."""
        return self.paths[0]

    @cached_property
    def opened(self) -> tuple[Classification, ...]:
        """The folders, opened: arrays of exemplars are read when asked for."""
        from nmerge_core.activations.store import open_classification

        return tuple(open_classification(path) for path in self.paths)

    def neurons(self, k: int | None = None, margin: int | None = None) -> pd.DataFrame:
        """Return a row per model and neuron: model, layer, neuron, category; `k` and `margin` let it vote again."""
        from nmerge_core.classification import neuron_categories

        frames = [
            neuron_categories(each, k=k, margin=margin).assign(model=label)
            for label, each in zip(self.labels, self.opened, strict=True)
        ]
        return pd.concat(frames, ignore_index=True)[["model", "layer", "neuron", "category"]]

    def counts(self, k: int | None = None, margin: int | None = None) -> pd.DataFrame:
        """Return layer, category, a column of counts per model, and of neurons that all have it (intersection)."""
        from nmerge_core.classification import compare

        return compare(self.paths, self.labels, k=k, margin=margin)

    def undecided(self) -> pd.Series:
        """Return for each model how many categories hang on the order of scores within 1e-5 of each other."""
        return pd.Series({label: each.meta["undecided"] for label, each in zip(self.labels, self.opened, strict=True)})

    def figure(self, layers: Sequence[int] | None = None, *, dark: bool = False) -> go.Figure:
        """Draw the neurons of each category in all layers or some, a bar per model (NeuronMerge Figs 3 and 6)."""
        from nmerge_core.figures.neurons import categories_by_layer

        chosen = self.opened[0].layers if layers is None else layers
        return categories_by_layer(self.counts(), chosen, model_colours(self.labels, dark=dark), dark=dark)

    def proportions_figure(self, *, dark: bool = False) -> go.Figure:
        """Draw the share of each category in each model (NeuronMerge Fig. 2a)."""
        from nmerge_core.figures.neurons import proportions

        return proportions(self.counts(), self.labels, self._colours, dark=dark)

    def depth_figure(self, model: str | None = None, *, dark: bool = False) -> go.Figure:
        """Draw the share of each category over the layers of one model, the first by default (NeuronMerge Fig. 9)."""
        from nmerge_core.figures.neurons import over_depth

        return over_depth(self.counts(), model or self.labels[0], self._colours, dark=dark)

    @property
    def _colours(self) -> dict[str, str]:
        return style.category_colours(self.opened[0].categories)


@dataclass(frozen=True)
class Cosines(Result):
    """How far fine-tunes turned each neuron's weights."""

    @cached_property
    def table(self) -> pd.DataFrame:
        """Columns model, layer, matrix, neurons, mean, min, p01, p50, zero."""
        return self._table("cosine.csv")

    @cached_property
    def moved(self) -> pd.DataFrame:
        """The neurons of lowest cosine: model, layer, neuron, matrix, cosine."""
        return self._table("moved.csv")

    def figure(self, *, dark: bool = False) -> go.Figure:
        """Draw the mean cosine over the layers, a panel per matrix (NeuronMerge Fig. 8)."""
        from nmerge_core.figures.similarity import mean_cosine

        return mean_cosine(self.table, model_colours(list(self.table["model"].unique()), dark=dark), dark=dark)


@dataclass(frozen=True)
class Knockout(Result):
    """What a model scores with growing shares of a category's neurons off, and with as many random ones off."""

    @cached_property
    def curve(self) -> pd.DataFrame:
        """Columns group, proportion, neurons, seed, metric, value, run_dtype."""
        return self._table("knockout.csv")

    def figure(self, metric: str | None = None, *, dark: bool = False) -> go.Figure:
        """Draw the curve and its control by one metric, the task's primary one by default (NeuronMerge Figs 4, 7)."""
        from nmerge_core.figures.knockout import RANDOM, curves

        groups = [group for group in self.curve["group"].unique() if group != RANDOM]
        chosen = metric or str(self.curve["metric"].iloc[0])
        return curves(self.curve, chosen, style.category_colours(groups), dark=dark)


@dataclass(frozen=True)
class Linearity(Result):
    """How far submodules and neuron groups are from linear in their task vector, and the coefficients that follow."""

    @cached_property
    def table(self) -> pd.DataFrame:
        """Columns model, layer, submodule, group (a category, or empty), alpha, value."""
        return self._grouped("linearity.csv")

    @cached_property
    def coefficients(self) -> pd.DataFrame | None:
        """Columns model, layer, submodule, group, coefficient; None where no categories were named."""
        return self._grouped("coefficients.csv") if (self.path / "coefficients.csv").exists() else None

    def _grouped(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.path / name, dtype={"group": "str"}).fillna({"group": ""})

    def figure(self, *, dark: bool = False) -> go.Figure:
        """Draw the non-linearity over the layers, a panel per fine-tune, the mean over α."""
        from nmerge_core.figures.linearity import nonlinearity

        groups = [group for group in self.table["group"].unique() if group]
        return nonlinearity(self.table, style.category_colours(groups), dark=dark)

    def coefficients_figure(self, *, dark: bool = False) -> go.Figure:
        """Draw each fine-tune's coefficient over the layers, a panel per part.

        Raises:
            ValueError: no coefficients were solved.
        """
        from nmerge_core.figures.linearity import parts

        if self.coefficients is None:
            raise ValueError("no coefficients were solved: name the category of each model (categories=[…])")
        frame = self.coefficients.assign(part=parts(self.coefficients))
        return coefficients_figure(frame, model_colours(list(frame["model"].unique()), dark=dark), dark=dark)


@dataclass(frozen=True)
class CollectedStatistics(Result):
    """Fisher information or Gram matrices of a model, which `fisher` and `regmean` merge by."""

    @cached_property
    def meta(self) -> dict[str, Any]:
        """What they are of: kind, model, corpus, categories, texts, tokens."""
        return read_json(self.path / "meta.json")


@dataclass(frozen=True)
class Merged(Result):
    """A merged checkpoint: `AutoModelForCausalLM.from_pretrained(merged.path)`."""

    @cached_property
    def report(self) -> dict[str, Any]:
        """What the merge read, took and found (nmerge_report.json)."""
        return read_json(self.path / "nmerge_report.json")

    @property
    def recipe(self) -> str:
        """The resolved recipe as YAML: merging it again gives the same bytes."""
        return (self.path / "nmerge_recipe.yaml").read_text(encoding="utf-8")

    @property
    def facts(self) -> dict[str, Any]:
        """What the method found out, by name; `report["results"]` says what each is."""
        return self.report["facts"]

    def figure(self, *, dark: bool = False) -> go.Figure:
        """Draw the coefficients that the method found, layer by layer.

        Raises:
            ValueError: this method finds none.
        """
        if not (rows := self.facts.get("coefficients")):
            raise ValueError(f"{self.report['method']} finds no coefficients by layer; see `facts`")
        frame = pd.DataFrame(rows)
        return coefficients_figure(frame, model_colours(list(frame["model"].unique()), dark=dark), dark=dark)


@dataclass(frozen=True)
class Extracted(Result):
    """A LoRA adapter: `path` is a folder that PEFT opens."""

    changes: pd.DataFrame


@dataclass(frozen=True)
class Scores(Result):
    """What models score on tasks."""

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Columns model, task, metric, value, stderr, samples, run_dtype."""
        return self._table("scores.csv")

    @property
    def labels(self) -> list[str]:
        """The models' names in the tables, in their order."""
        return list(self.scores["model"].unique())

    @property
    def table(self) -> pd.DataFrame:
        """A row per task and metric, a column per model, with 95 % intervals."""
        from nmerge_core.figures.scores import table

        return table(self.scores, self.labels)

    def figure(self, *, dark: bool = False) -> go.Figure:
        """Draw each task's primary metric, a bar per model, with 95 % intervals."""
        from nmerge_core.figures.scores import bars

        base = self.labels[0] if self.labels[0] == BASE else ""
        return bars(self.scores, model_colours(self.labels, dark=dark), self.labels, base=base, dark=dark)


@dataclass(frozen=True)
class Sweep(Result):
    """A search over recipe parameters, a row per trial."""

    @cached_property
    def trials(self) -> pd.DataFrame:
        """Columns trial, the searched keys, the scores by task/metric, objective, seconds."""
        return self._table("trials.csv")

    @property
    def best(self) -> Path:
        """The resolved recipe of the best trial."""
        return self.path / "best.yaml"


def model_colours(labels: Sequence[str], *, dark: bool = False) -> dict[str, str]:
    """Return a colour per model: the base's, that of the category a fine-tune is called after, or a free one."""
    tuned = style.category_colours([label for label in labels if label != BASE])
    return {label: tuned.get(label, style.base_colour(dark)) for label in labels}


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file that a run wrote."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content
