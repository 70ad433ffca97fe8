"""What the public functions return: tables as data frames, figures of them, and the folder where the files are.

A result stands for its folder wherever a path is taken: `nm.evaluate(nm.merge(…), tasks=…)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from nmerge_core.checkpoints import FamilyReport
from nmerge_core.figures import style
from nmerge_core.figures.merge import by_layer
from nmerge_core.figures.merge import history as history_figure
from nmerge_core.files.kept_files import read_csv, read_object
from nmerge_core.merging import engine
from nmerge_core.merging.recipe.prepared import NEURONS_FOLDER
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.runs.tints import merge_tints

if TYPE_CHECKING:
    import plotly.graph_objects as go

BASE, GENERAL = "base", "general"  # a base among its fine-tunes, and the category of all else
REPORT = "nmerge_report.json"  # of a merged checkpoint


@dataclass(frozen=True)
class Result:
    """A finished run: `path` is the folder of what it wrote."""

    path: Path

    def __fspath__(self) -> str:
        """Stand for the folder."""
        return str(self.path)

    def _table(self, name: str) -> pd.DataFrame:
        return read_csv(self.path / name)


@dataclass(frozen=True)
class OfModels(Result):
    """A finished run of several models: `names` tells what each is called here by the name that its files have."""

    names: Mapping[str, str]

    def _table(self, name: str) -> pd.DataFrame:
        frame = super()._table(name)
        return frame.assign(model=frame["model"].map(self.names))


@dataclass(frozen=True)
class Inspection:
    """What the headers of models say, and whether they can be merged; `names` tells what each reference is called."""

    report: FamilyReport
    names: Mapping[str, str]

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
        return pd.DataFrame(
            [{**vars(model), "label": self.names[model.reference]} for model in self.report.models],
        )


@dataclass(frozen=True)
class Linearity(OfModels):
    """How far submodules and neuron groups are from linear in their task vector, and the coefficients that follow."""

    @cached_property
    def table(self) -> pd.DataFrame:
        """Columns model, layer, submodule, group (a category, or empty), alpha, value."""
        return self._grouped("linearity.csv")

    @cached_property
    def by_chance(self) -> pd.DataFrame | None:
        """Neuron groups beside random ones and all neurons, with intervals; None where no `neurons` were given.

        Columns as `nonlinearity.by_chance_table.table` has them: layer NaN is the mean of all, group "" all groups.
        """
        return self._grouped("by_chance.csv") if (self.path / "by_chance.csv").exists() else None

    @cached_property
    def coefficients(self) -> pd.DataFrame | None:
        """Columns model, layer, submodule, group, coefficient; None where no categories were named."""
        return self._grouped("coefficients.csv") if (self.path / "coefficients.csv").exists() else None

    def _grouped(self, name: str) -> pd.DataFrame:
        return self._table(name).fillna({"group": ""})

    def figure(self, *, dark: bool = False) -> go.Figure:
        """Draw the non-linearity over the layers, a panel per fine-tune, the mean over α."""
        from nmerge_core.figures.linearity import nonlinearity

        groups = in_order([group for group in self.table["group"].unique() if group], list(self.names.values()))
        return nonlinearity(self.table, style.category_colours(groups), title="{} fine-tune", dark=dark)

    def by_chance_figure(self, group: str = "", *, dark: bool = False) -> go.Figure:
        """Draw a group's non-linearity over the layers beside random groups and all neurons; all groups by default.

        Raises:
            ValueError: no `neurons` were given.
        """
        from nmerge_core.figures.linearity import by_chance

        if self.by_chance is None:
            raise ValueError("no groups were measured: give what classify found of the base (neurons=…)")
        groups = in_order([each for each in self.by_chance["group"].unique() if each], list(self.names.values()))
        return by_chance(self.by_chance, group, style.category_colours(groups), title="{} fine-tune", dark=dark)

    def coefficients_figure(self, *, dark: bool = False) -> go.Figure:
        """Draw each fine-tune's coefficient over the layers, a panel per part.

        Raises:
            ValueError: no coefficients were solved.
        """
        from nmerge_core.figures.linearity import parts

        if self.coefficients is None:
            raise ValueError("no coefficients were solved: name the category of each model (categories=[…])")
        found = self.coefficients.assign(part=parts(self.coefficients))
        return _by_layer(found[["model", "layer", "part", "coefficient"]], "coefficient α", dark)


@dataclass(frozen=True)
class CollectedStatistics(Result):
    """Fisher information or Gram matrices of a model, which `fisher` and `regmean` merge by."""

    @cached_property
    def meta(self) -> dict[str, Any]:
        """What they are of: kind, model, corpus, categories, texts, tokens."""
        return read_object(self.path / "meta.json")


@dataclass(frozen=True)
class Merged(Result):
    """A merged checkpoint, which the class of its models loads: `AutoModelForCausalLM.from_pretrained(merged.path)`."""

    @cached_property
    def report(self) -> dict[str, Any]:
        """What the merge read, took and found (nmerge_report.json)."""
        return read_object(self.path / REPORT)

    @property
    def recipe(self) -> str:
        """The resolved recipe as YAML, which gives the same bytes from anywhere: the neurons' folder is in full."""
        recipe = engine.load(self.path / "nmerge_recipe.yaml")
        if isinstance(recipe, Recipe) and recipe.parameters.get("neurons") == NEURONS_FOLDER:
            neurons = str((self.path / NEURONS_FOLDER).resolve())
            recipe = replace(recipe, parameters={**recipe.parameters, "neurons": neurons})
        return recipe.yaml

    @property
    def facts(self) -> dict[str, Any]:
        """What the method found out, by name; `report["results"]` says what each is."""
        return self.report["facts"]

    def figures(self, *, dark: bool = False) -> dict[str, go.Figure]:
        """Draw what the method found that can be drawn, by its title: numbers by layer, the course of a search."""
        return {
            result["title"]: _by_layer(pd.DataFrame(found), result["title"], dark)
            if result["form"] == "layers"
            else history_figure(found, result["title"], dark=dark)
            for result, found in self._found("layers", "history")
        }

    def figure(self, *, dark: bool = False) -> go.Figure:
        """Draw the first of `figures`.

        Raises:
            ValueError: the method found nothing that can be drawn.
        """
        if not (figures := self.figures(dark=dark)):
            raise ValueError(f"{self.report['method']} finds nothing that can be drawn; see `facts`")
        return next(iter(figures.values()))

    @property
    def numbers(self) -> dict[str, Any]:
        """The numbers that the method found, by their titles: one, or one per model."""
        return {result["title"]: found for result, found in self._found("number", "models")}

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables of what the method found, by their titles."""
        return {result["title"]: pd.DataFrame(found) for result, found in self._found("table")}

    def _found(self, *forms: str) -> list[tuple[Mapping[str, str], Any]]:
        """Return the results that the report declares in these forms, with what was found, unless that is empty."""
        declared = [result for result in self.report.get("results", []) if result["form"] in forms]
        return [(result, found) for result in declared if (found := self.facts[result["name"]]) not in ([], {}, None)]


@dataclass(frozen=True)
class Combined(Result):
    """A LoRA adapter of several: `path` is a folder that PEFT opens."""


@dataclass(frozen=True)
class Extracted(Result):
    """A LoRA adapter: `path` is a folder that PEFT opens."""

    changes: pd.DataFrame


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


def merged_of(names: Sequence[str], references: Sequence[str]) -> dict[str, str]:
    """Return the colour of each model that NMerge has merged, by its name: that of the pages, where a run did it."""
    pairs = zip(names, map(Path, references), strict=True)
    made = {name: model.resolve() for name, model in pairs if (model / REPORT).is_file()}
    tints = merge_tints()
    return {name: tints.get(str(made[name]), other) for name, other in style.merge_colours([*made]).items()}


def model_colours(labels: Sequence[str], merged: Mapping[str, str], *, dark: bool = False) -> dict[str, str]:
    """Return the colour of each model: the base's own, a merge's, that of the category a fine-tune is called after."""
    tuned = style.category_colours([label for label in labels if label != BASE and label not in merged])
    own = tuned | dict(merged)
    return {label: own.get(label, style.base_colour(dark)) for label in labels}


def in_order(categories: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Return the categories as all figures have them: General, those that models are called after, in turn, others."""
    return sorted(categories, key=[GENERAL, *labels, *categories].index)


def _by_layer(frame: pd.DataFrame, title: str, dark: bool) -> go.Figure:
    return by_layer(frame, title, model_colours(list(frame["model"].unique()), {}, dark=dark), dark=dark)
