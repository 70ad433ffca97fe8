"""Which neurons are found: filters, order, and the table that shows a page of them; half a million stay quick."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from nmerge_core.activations.store import open_classification
from nmerge_core.neuron.overview import overview
from nmerge_core.runs import client
from nmerge_core.runs.folder import Run
from pages.shared.explorer.compared import Order, values
from pages.shared.neurons.chosen import confidence, exemplars, opened

VOTERS = 10  # strongest texts of a neuron whose strongest tokens are searched
SECONDS = 120.0  # for the worker to cut the texts into tokens
PLACE, CERTAINTY, SUPPORT = "layer and neuron", "certainty", "support"
SCORE, SELECTIVITY = "largest score", "selectivity"
ALL, DEAD, NOTED = "all neurons", "dead", "with a note"
OTHER = "other category in "  # before the name of a model

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Query:
    """What is looked for: of a model `only` some neurons, that fire on `fires`, of `layers` if any, by `order`.

    `noted` are the rows of `table_of` of the notes that are looked for; None where any neuron will do.
    """

    model: str
    only: str
    fires: str
    layers: tuple[int, ...]
    order: str
    noted: tuple[int, ...] | None = None


@st.cache_resource(max_entries=16, show_spinner="Reading all neurons")  # not copied: nobody changes it
def table_of(folder: str) -> pd.DataFrame:
    """All neurons of a classification, a row each, layer by layer."""
    return overview(open_classification(folder))


def support_of(folder: str) -> NDArray[np.float64]:
    """The share of redrawn corpora that give each neuron its category, (neurons,); the first time takes seconds."""
    meta = open_classification(folder).meta
    return confidence(folder, meta["top_k"], meta["margin"])["support"].to_numpy()


@st.cache_resource(max_entries=4, show_spinner="Looking up the texts' tokens")
def _tokens(folder: str, content: str) -> tuple[NDArray[np.int32], NDArray[np.str_]]:
    """The token of each exemplar at each place, (exemplars, T), as a number, and what each number stands for.

    0 is no token.
    """
    found = open_classification(folder)
    texts = exemplars(folder).sort_values("id")["text"]
    asked = {"model": found.meta["model"], "texts": list(texts), "max_length": found.meta["max_length"]}
    pieces: list[list[str]] = client.ask("tokens_of_texts", timeout=SECONDS, **asked)
    numbers: dict[str, int] = {"": 0}
    places = np.zeros((len(pieces), max(map(len, pieces))), np.int32)
    for row, text in zip(places, pieces, strict=True):
        row[: len(text)] = [numbers.setdefault(piece.strip().lower(), len(numbers)) for piece in text]
    return places, np.array([*numbers], np.str_)


@st.cache_resource(max_entries=4, show_spinner="Looking up the strongest tokens of all neurons")
def _strongest(folder: str, content: str) -> NDArray[np.int32]:
    """The token, as a number, at which each neuron is strongest in each of its strongest texts, (neurons, voters)."""
    found = open_classification(folder)
    places, _ = _tokens(folder, content)
    tops = [(found.top(layer, VOTERS)[0], found.positions(layer, VOTERS)) for layer in found.layers]
    return np.concatenate([places[ids, np.minimum(at, places.shape[1] - 1)] for ids, at in tops])


@st.cache_data(max_entries=32, show_spinner=False)
def hits(folder: str, content: str, text: str) -> NDArray[np.int64]:
    """In how many of its strongest texts each neuron is strongest at a token that has `text` in it, (neurons,)."""
    _, words = _tokens(folder, content)
    wanted = np.char.find(words, text.strip().lower()) >= 0
    wanted[0] = False
    return wanted[_strongest(folder, content)].sum(axis=1)


def found_by(query: Query, done: Mapping[str, Run], compared: tuple[str, Order] | None) -> Rows:
    """The rows of `table_of` that a query finds, in its order, which may be that of a comparison of the weights."""
    folders = {label: str(run.results) for label, run in done.items()}
    run = done[query.model]
    return _found(query, folders, run.inputs[run.parameters["model"]], compared)


@st.cache_data(max_entries=64, show_spinner=False)
def _found(query: Query, folders: dict[str, str], content: str, compared: tuple[str, Order] | None) -> Rows:
    own = folders[query.model]
    if query == Query(query.model, ALL, "", (), PLACE):  # as at first, before all neurons are read
        return np.arange(sum(open_classification(own).widths.values()))
    table = table_of(own)
    kept = np.ones(len(table), bool)
    if query.only == DEAD:
        kept &= table["dead"].to_numpy()
    elif query.only.startswith(OTHER):
        other = table_of(folders[query.only.removeprefix(OTHER)])
        kept &= table["category"].cat.codes.to_numpy() != other["category"].cat.codes.to_numpy()
    elif query.only not in (ALL, NOTED):
        kept &= (table["category"] == query.only).to_numpy()
    if query.noted is not None:
        kept &= np.isin(np.arange(len(table)), query.noted)
    if query.layers:
        kept &= np.isin(table["layer"].to_numpy(), query.layers)
    keys: list[NDArray[np.generic]] = []  # the first that differs decides; larger ones come first
    if query.fires.strip():
        count = hits(own, content, query.fires)
        kept &= count > 0
        keys.append(count)
    if query.order == CERTAINTY:
        keys = [table["lead"].to_numpy(), table["selectivity"].to_numpy(), *keys]
    elif query.order == SUPPORT:
        keys = [support_of(own), *keys]
    elif query.order in (SCORE, SELECTIVITY):
        keys = [table["score" if query.order == SCORE else "selectivity"].to_numpy(), *keys]
    elif compared is not None:
        results, order = compared
        keys = [(-1 if order.lowest else 1) * values(results, order), *keys]
    rows = np.flatnonzero(kept)
    if not keys:
        return rows
    return rows[np.lexsort([-np.nan_to_num(key[rows], nan=-np.inf) for key in reversed(keys)])]


def row_of(run: Run, layer: int, neuron: int) -> int:
    """The row of a neuron in `table_of`."""
    return int(_first_rows(run)[opened(run).layers.index(layer)]) + neuron


def noted(run: Run, notes: Mapping[tuple[int, int], str], text: str = "") -> dict[int, str]:
    """The notes that have `text` in them, by the row of their neuron in `table_of`; of no other model's neurons."""
    widths = opened(run).widths
    found = {place: note for place, note in notes.items() if text.strip().casefold() in note.casefold()}
    return {row_of(run, *place): note for place, note in found.items() if place[1] < widths.get(place[0], 0)}


def place_of(run: Run, row: int) -> tuple[int, int]:
    """The layer and the neuron of a row of `table_of`."""
    first = _first_rows(run)
    index = int(np.searchsorted(first, row, "right")) - 1
    return opened(run).layers[index], row - int(first[index])


def _first_rows(run: Run) -> Rows:
    """The row of the first neuron of each layer."""
    widths = [*opened(run).widths.values()]
    return np.cumsum([0, *widths[:-1]])
