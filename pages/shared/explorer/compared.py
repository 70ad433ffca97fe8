"""What a comparison of the family's weights tells of every neuron, and the orders of neurons that follow from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from nmerge_core.checkpoints import labels
from nmerge_core.family import Family
from nmerge_core.files.kept_files import read_parquet
from nmerge_core.runs.folder import Run
from nmerge_core.similarity.tables import conflicts
from pages.shared.frame.runs import latest_run

TURNED, CHANGED, PARALLEL = "turned most in ", "changed most in ", "most parallel in "  # before the name of a model
CONFLICT, APART = "most in sign conflict", "pulled apart most"  # of all fine-tunes; with two names, of two models
OF_NEURONS = ("model", "layer", "neuron", "cosine", "change", "parallel")  # columns of turned.parquet
OF_PAIRS = ("one", "other", "layer", "neuron", "cosine", "opposed")  # of between.parquet
_MUTUAL = "between.parquet"
_OF_ONE = {TURNED: ("cosine", "cosine"), CHANGED: ("change", "change"), PARALLEL: ("parallel", "parallel share")}
_OF_SEVERAL = {CONFLICT: ("opposed", "sign conflict"), APART: ("cosine", "cosine between tasks")}


@dataclass(frozen=True)
class Order:
    """A number of every neuron, highest first or `lowest`: of one model, or the mean over every two of several.

    `column` and `models` are as the run has them, `title` is what the number is called.
    """

    column: str
    models: tuple[str, ...]
    title: str
    lowest: bool


@dataclass(frozen=True)
class Compared:
    """A finished comparison: `names` tells what the run calls each model by its label, `tuned` which are no merges."""

    results: str
    names: Mapping[str, str]
    tuned: tuple[str, ...]

    def orders(self) -> dict[str, Order]:
        """The orders of neurons that there are, those of single models first."""
        found = {
            kind + label: Order(column, (name,), f"{title}, {label}", lowest=kind == TURNED)
            for kind, (column, title) in _OF_ONE.items()
            for label, name in self.names.items()
        }
        together = [self.tuned] if len(self.tuned) > 1 else []
        pairs = [pair for pair in combinations(self.names, 2) if set(pair) != set(self.tuned)]
        for chosen in [*together, *pairs]:
            of = "" if chosen == self.tuned else f", {' and '.join(chosen)}"
            for kind, (column, title) in _OF_SEVERAL.items():
                models = tuple(self.names[label] for label in chosen)
                found[self.between(kind, chosen)] = Order(column, models, title + of, lowest=kind == APART)
        return found

    def between(self, kind: str, models: Sequence[str]) -> str:
        """What the order by `CONFLICT` or `APART` of some models is called."""
        return kind if set(models) == set(self.tuned) else f"{kind}: {' and '.join(models)}"


def compared(family: Family) -> Compared | None:
    """The finished comparison of the family's weights, if there is one."""
    run = latest_run("cosine", {"base": family.base, "models": family.references})
    return told_by(run, family) if run is not None and run.status().state == "done" else None


def told_by(run: Run, family: Family) -> Compared | None:
    """What a finished comparison tells of every neuron; None where it is an older version's, which kept less."""
    if not (run.results / _MUTUAL).exists():
        return None
    called = dict(zip([model.label for model in family.models], labels(run.parameters["models"]), strict=True))
    return Compared(str(run.results), called, tuple(model.label for model in family.models if not model.merged))


@st.cache_resource(max_entries=4, show_spinner=False)  # not copied: nobody changes it
def measured(results: str, *, mutual: bool) -> pd.DataFrame:
    """What a comparison kept of every neuron of each model or, `mutual`, of every two."""
    file, columns = (_MUTUAL, OF_PAIRS) if mutual else ("turned.parquet", OF_NEURONS)
    return read_parquet(Path(results) / file, columns)


@st.cache_resource(max_entries=16, show_spinner="Reading what was changed in all neurons")
def values(results: str, order: Order) -> NDArray[np.float32]:
    """The number of an order of every neuron, layer by layer."""
    if len(order.models) == 1:
        frame = measured(results, mutual=False)
        frame = frame[frame["model"] == order.models[0]]
    else:
        frame = conflicts(measured(results, mutual=True), order.models)
    return frame.sort_values(["layer", "neuron"])[order.column].to_numpy()
