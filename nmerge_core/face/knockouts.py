"""What neurons are for: a category's neurons silenced or kept alone, and layer by layer; and what that returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from nmerge_core.errors import InputError
from nmerge_core.face.calls import Models, Reference, do, named
from nmerge_core.figures import style
from nmerge_core.files.kept_files import read_csv
from nmerge_core.parameters.settings import (
    ALLOW_TASK_CODE,
    DEVICE,
    KEEP_ONLY,
    LIMIT,
    PROPORTIONS,
    REPEATS,
    RUN_CODE,
    RUN_DTYPE,
    SEED,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class OfEach:
    """What was measured of one model, or of several, a folder each."""

    paths: tuple[Path, ...]
    labels: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The folder of the first model."""
        return self.paths[0]

    def _table(self, name: str, columns: Sequence[str]) -> pd.DataFrame:
        frames = [
            read_csv(path / name, columns).assign(model=label)
            for path, label in zip(self.paths, self.labels, strict=True)
        ]
        found = pd.concat(frames, ignore_index=True)
        return found[["model", *found.columns.drop("model")]]

    def _shown(self, table: pd.DataFrame) -> pd.DataFrame:
        return table if len(self.labels) > 1 else table.drop(columns="model")


@dataclass(frozen=True)
class Knockout(OfEach):
    """What models score with growing shares of a category's neurons off, or kept, against as many random ones."""

    category: str
    keep_only: bool = False

    @cached_property
    def _curves(self) -> pd.DataFrame:
        return self._table("knockout.csv", ("group", "proportion", "neurons", "seed", "metric", "value"))

    @property
    def curve(self) -> pd.DataFrame:
        """Columns group, proportion, neurons, seed, metric, value, run_dtype; of several models first model."""
        return self._shown(self._curves)

    @property
    def effects(self) -> pd.DataFrame:
        """By how much the category's neurons matter more than random ones, a row for each share and metric.

        Columns proportion, neurons, metric, intact, own, random, effect, stderr, low, high (95 % interval), p,
        problems, draws, adjusted (p by Holm over the shares); of several models first model.
        """
        return self._shown(self._table("effects.csv", ("proportion", "metric", "effect")))

    def figure(self, metric: str | None = None, *, dark: bool = False) -> go.Figure:
        """Draw the curve and its control by one metric, the first by default; a panel per model (Figs 4, 7)."""
        from nmerge_core.figures.knockout import curves

        colours = style.category_colours([self.category])
        chosen = metric or str(self._curves["metric"].iloc[0])
        return curves(self._curves, chosen, colours, keep_only=self.keep_only, dark=dark)


@dataclass(frozen=True)
class Effects(OfEach):
    """What each category's neurons of each layer do: by how much a model is worse without them than random ones."""

    @cached_property
    def _effects(self) -> pd.DataFrame:
        return self._table("effects.csv", ("layer", "category", "metric", "effect", "stderr", "adjusted"))

    @property
    def table(self) -> pd.DataFrame:
        """A row for each layer, category and metric: neurons, intact, own, random, effect, stderr, low, high, p, ….

        `adjusted` is p by Holm over all cells of a metric; of several models there is first model.
        """
        return self._shown(self._effects)

    def figure(self, metric: str | None = None, *, dark: bool = False) -> go.Figure:
        """Draw the effects, layers across and categories down; by loss each category's on its own texts by default."""
        from nmerge_core.figures.effects import by_layer, metrics_of

        return by_layer(self._effects, metric or metrics_of(self._effects)[0], dark=dark)


def knockout(
    model: Models,
    neurons: Reference | Sequence[Reference],
    category: str,
    layers: int | Sequence[int] | None = None,
    task: Reference | None = None,
    *,
    loss: Reference | None = None,
    lists: Mapping[str, Any] | None = None,
    proportions: float | Sequence[float] = PROPORTIONS.default,
    keep_only: bool = KEEP_ONLY.default,
    repeats: int = REPEATS.default,
    seed: int = SEED.default,
    limit: int | None = LIMIT.default,
    run_code: bool = RUN_CODE.default,
    allow_task_code: bool = ALLOW_TASK_CODE.default,
    device: str = DEVICE.default,
    run_dtype: str = RUN_DTYPE.default,
    progress: bool = True,
) -> Knockout:
    """Score models with growing shares of a category's neurons off, and with as many random ones off (§2.3).

    Args:
        model: a model folder or Hub id, or several.
        neurons: what `classify` gave for this model or its base; or one for each model.
        category: the category whose neurons are silenced, or the name of a list.
        layers: the layers they are silenced in, from 0; all by default.
        task: a task YAML, a task of the demo family, or an lm-eval name.
        loss: in place of a task, a corpus whose held-out texts are read: the loss on those of each category.
        lists: lists of neurons by name, [[layer, neuron], …] or a CSV or JSON file of them.
        proportions: shares of the category's neurons, in (0, 1].
        keep_only: switch off all neurons of these layers but the shares of the category's, or as many random ones.
        repeats: draws of each share.
        seed: of the draws.
        limit: only the first so many problems, or texts of each category.
        run_code: let the task run the code that the model writes, in the sandbox.
        allow_task_code: let the task run code of its own, outside of any sandbox: read it first.
        device: "auto", "cpu", "cuda:1", ….
        run_dtype: the number format the models run in.
        progress: whether it is shown.

    Raises:
        InputError: there is no such category, layer, list or task, neither task nor loss is given, or both are.
    """
    asked: dict[str, Any] = {"category": category, "layers": layers, "proportions": proportions, "keep_only": keep_only}
    asked |= {"task": task, "loss": loss, "lists": lists, "repeats": repeats, "seed": seed, "limit": limit}
    asked |= {"run_code": run_code, "allow_task_code": allow_task_code, "device": device, "run_dtype": run_dtype}
    return Knockout(*_each("knockout", model, neurons, asked, progress), category, keep_only)


def effects(
    model: Models,
    neurons: Reference | Sequence[Reference],
    task: Reference | None = None,
    *,
    loss: Reference | None = None,
    layers: int | Sequence[int] | None = None,
    categories: str | Sequence[str] | None = None,
    lists: Mapping[str, Any] | None = None,
    repeats: int = REPEATS.default,
    seed: int = SEED.default,
    limit: int | None = LIMIT.default,
    run_code: bool = RUN_CODE.default,
    allow_task_code: bool = ALLOW_TASK_CODE.default,
    device: str = DEVICE.default,
    run_dtype: str = RUN_DTYPE.default,
    progress: bool = True,
) -> Effects:
    """Switch each category's neurons of each layer off, and as many random ones of that layer, and score models.

    Args:
        model: a model folder or Hub id, or several.
        neurons: what `classify` gave for this model or its base; or one for each model.
        task: a task YAML, a task of the demo family, or an lm-eval name.
        loss: in place of a task, a corpus whose held-out texts are read: the loss on those of each category.
        layers: the layers, from 0; all by default.
        categories: categories, and names of lists; all by default.
        lists: lists of neurons by name, [[layer, neuron], …] or a CSV or JSON file of them.
        repeats: random draws for each.
        seed: of the draws.
        limit: only the first so many problems, or texts of each category.
        run_code: let the task run the code that the model writes, in the sandbox.
        allow_task_code: let the task run code of its own, outside of any sandbox: read it first.
        device: "auto", "cpu", "cuda:1", ….
        run_dtype: the number format the models run in.
        progress: whether it is shown.

    Raises:
        InputError: there is no such category, layer, list or task, neither task nor loss is given, or both are.
    """
    asked: dict[str, Any] = {"categories": categories, "layers": layers, "task": task, "loss": loss, "lists": lists}
    asked |= {"repeats": repeats, "seed": seed, "limit": limit, "run_code": run_code}
    asked |= {"allow_task_code": allow_task_code, "device": device, "run_dtype": run_dtype}
    return Effects(*_each("effects", model, neurons, asked, progress))


def _each(
    kind: str, models: Models, neurons: Reference | Sequence[Reference], asked: Mapping[str, Any], progress: bool
) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Do a run for each model, so that one that was measured before is not measured again beside others."""
    names, references = named(models)
    of_each = [neurons] * len(references) if isinstance(neurons, str | PathLike) else list(neurons)
    if len(of_each) != len(references):
        raise InputError(
            f"neurons: expected one classification, or one for each of {len(references)} models, found {len(of_each)}"
        )
    runs = [do(kind, progress, model=each, neurons=own, **asked) for each, own in zip(references, of_each, strict=True)]
    return tuple(run.results for run in runs), tuple(names)
