"""The classification runs of a family's models, and what pages read from them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from nmerge_core.activations.store import Classification, open_classification
from nmerge_core.classification.agreement import agreement, agreements, rounding
from nmerge_core.classification.categories import categorise
from nmerge_core.classification.classification import compare, count_undecided
from nmerge_core.classification.confidence import confident_counts, neuron_confidence
from nmerge_core.classification.random_labels import Chance, by_chance
from nmerge_core.errors import InputError
from nmerge_core.family import Family, Member
from nmerge_core.runs.folder import Run
from nmerge_core.runs.kept import classifications
from pages.shared.frame.family import category_colours


def classify_parameters(family: Family, member: Member) -> dict[str, Any]:
    """What a run is asked for to classify one model of the family."""
    return {"model": member.reference, "corpus": family.corpus}


def classification_runs(family: Family) -> dict[str, Run | None]:
    """The classification run of each model by its label, base first; None where none was started."""
    return {member.label: classification_run(classify_parameters(family, member)) for member in family.members}


def classification_run(asked: Mapping[str, Any]) -> Run | None:
    """The run of a page or a command: a finished one, with statistics if there is one, else one that goes, else any."""

    def rank(run: Run) -> tuple[bool, bool, bool]:
        status = run.status()
        return status.state != "done", not status.active, not run.parameters.get("statistics")

    try:
        return min(classifications(asked), key=rank, default=None)
    except InputError:
        return None


def finished(runs: Mapping[str, Run | None]) -> dict[str, Run]:
    """Those runs whose results are there."""
    return {label: run for label, run in runs.items() if run is not None and run.status().state == "done"}


def comparison(runs: dict[str, Run], k: int, margin: int, order: Sequence[str]) -> pd.DataFrame:
    """Neurons per layer and category: a column per model, and those with the same category in all of them.

    Each layer has its categories in the order given.
    """
    return _in_order(_comparison(tuple(str(run.results) for run in runs.values()), tuple(runs), k, margin), order)


def confident(runs: dict[str, Run], k: int, margin: int, order: Sequence[str], least: float) -> pd.DataFrame:
    """The same of those neurons alone whose category has at least this support."""
    neurons = {label: confidence(str(run.results), k, margin) for label, run in runs.items()}
    return _in_order(confident_counts(neurons, least), order)


@st.cache_data(max_entries=32, show_spinner="Drawing the texts again…")
def confidence(folder: str, k: int, margin: int) -> pd.DataFrame:
    """How sure the category of every neuron of a finished run is: layer, neuron, category, lead, support."""
    return neuron_confidence(open_classification(folder), k=k, margin=margin)


def _in_order(frame: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    rank = frame["category"].map(list(order).index)
    return frame.iloc[np.lexsort((rank, frame["layer"]))].reset_index(drop=True)


@st.cache_data(max_entries=64, show_spinner=False)
def _comparison(folders: tuple[str, ...], labels: tuple[str, ...], k: int, margin: int) -> pd.DataFrame:
    return compare([Path(folder) for folder in folders], labels, k=k, margin=margin)


@st.cache_data(max_entries=64, show_spinner=False)
def undecided(folder: str, k: int, margin: int) -> int:
    """How many neurons of a finished run hang on the order of scores that are as good as equal."""
    return count_undecided(open_classification(folder), k=k, margin=margin)


@st.cache_data(max_entries=64, show_spinner=False)
def rounded(folder: str, exact: str, k: int, margin: int) -> float:
    """The share of a finished run's neurons that have another category in a run of the same model in float32."""
    opened = [open_classification(each) for each in (folder, exact)]
    return rounding(opened, k=k, margin=margin).get(Path(folder), 0.0)


@st.cache_data(max_entries=64, show_spinner=False)
def chance(folders: tuple[str, ...], k: int, margin: int) -> Chance:
    """What random labels of the texts give for finished runs, the base's first."""
    return by_chance([open_classification(folder) for folder in folders], k=k, margin=margin)


@st.cache_data(max_entries=64, show_spinner=False)
def agreeing(folders: Mapping[str, str], k: int, margin: int) -> pd.DataFrame:
    """How far each model agrees with the first: model, share, kappa, and "IoU NAME" of each category."""
    base, *others = (open_classification(folder) for folder in folders.values())
    return agreements(base, dict(zip([*folders][1:], others, strict=True)), k=k, margin=margin)


@st.cache_data(max_entries=64, show_spinner=False)
def crossed(folder: str, other: str, k: int, margin: int, order: Sequence[str]) -> pd.DataFrame:
    """Neurons by their category in one model, a row each, and in another, a column each."""
    counts = agreement(open_classification(folder), open_classification(other), k=k, margin=margin).counts
    return counts.loc[list(order), list(order)]


def in_order(family: Family, found: Classification) -> list[str]:
    """The categories of a classification in the order the family names them, others after them."""
    return sorted(found.categories, key=[*family.categories, *found.categories].index)


def colours_in_order(family: Family, found: Classification) -> dict[str, str]:
    """The colour of each category of a classification, in the order of `in_order`."""
    order = in_order(family, found)
    colours = category_colours(family, order)
    return {category: colours[category] for category in order}


def opened(run: Run) -> Classification:
    """The classification a finished run has written."""
    return open_classification(run.results)


@st.cache_data(max_entries=128, show_spinner=False)
def layer_categories(folder: str, layer: int, k: int, margin: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Category names (d_ffn,) and votes (d_ffn, categories) of the neurons of one layer of a finished run."""
    found = open_classification(folder)
    ids, _ = found.top(layer, k)
    index, votes = categorise(ids, found.exemplar_categories, len(found.categories), k, margin)
    return np.array(found.categories)[index], votes


@st.cache_data(max_entries=8, show_spinner=False)
def all_categories(folder: str) -> dict[int, list[str]]:
    """The category of each neuron, layer by layer, as a finished run was asked to count them."""
    neurons = open_classification(folder).neurons().sort_values(["layer", "neuron"])
    return {int(layer): list(rows["category"]) for layer, rows in neurons.groupby("layer")}


@st.cache_data(max_entries=16, show_spinner=False)
def exemplars(folder: str) -> pd.DataFrame:
    """The texts of the corpus: id, category, text."""
    return open_classification(folder).exemplars()
