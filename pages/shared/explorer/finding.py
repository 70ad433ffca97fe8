"""The controls that find neurons, and what is found by them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from nmerge_core.activations.store import Classification
from nmerge_core.errors import InputError
from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.runs.folder import Run
from pages.shared.explorer.compared import APART, CONFLICT, PARALLEL, TURNED, Compared, Order, compared
from pages.shared.explorer.searching import (
    ALL,
    CERTAINTY,
    DEAD,
    NOTED,
    OTHER,
    PLACE,
    SCORE,
    SELECTIVITY,
    SUPPORT,
    VOTERS,
    Query,
    Rows,
    found_by,
    noted,
)
from pages.shared.frame.address import forget_unknown
from pages.shared.frame.family import chosen_family
from pages.shared.frame.page import link
from pages.shared.frame.text import verbatim
from pages.shared.neurons.chosen import opened

LISTED = 5  # models that have quick lists of their own
QUICK = "explorer_quick"
PAGED = "explorer_page"  # the page of the table that the reader has turned to; else it follows the neuron


@dataclass(frozen=True)
class Found:
    """The neurons that one steps through: rows of `table_of` in order, and what they were looked for by."""

    query: Query
    rows: Rows
    compared: Compared | None  # the family's weights

    @cached_property
    def orders(self) -> dict[str, Order]:
        """What the comparison of the weights tells of neurons."""
        return self.compared.orders() if self.compared else {}

    def place(self, row: int) -> int | None:
        """Where a neuron is among them; None where it is not."""
        at = np.flatnonzero(self.rows == row)
        return int(at[0]) if len(at) else None


def find(family: Family, done: Mapping[str, Run], model: str) -> Found:
    """The controls of what is looked for, folded, and what is found."""
    found = opened(done[model])
    weights = compared(family)
    told = weights.orders() if weights else {}
    others = [label for label in done if label != model]
    notes = chosen_family().neuron_notes  # as its file is now: a note may just have been written
    only = [ALL, *found.categories, *(OTHER + label for label in others), DEAD, *([NOTED] if notes else [])]
    orders = [PLACE, CERTAINTY, SUPPORT, SCORE, SELECTIVITY, *told]
    for key, options in (("explorer_only", only), ("explorer_order", orders), ("explorer_layers", found.layers)):
        forget_unknown(key, options)
    _quick_lists(found, told, others, [NOTED] if notes else [])
    places = iter(st.columns([1.2, *([] if found.images else [1.2]), 1.4, 1.2, *([1.1] if notes else [])]))
    first, fires = next(places), "" if found.images else _words(next(places))
    third, fourth = next(places), next(places)
    text = _of_note(next(places)) if notes else ""
    query = Query(
        model,
        first.selectbox(
            "Which neurons",
            only,
            key="explorer_only",
            bind="query-params",
            on_change=_from_the_first,
            help="Categories are those of the chosen model. *Dead* ones hardly react to any text: their largest score "
            "is below 1 % of the median of their layer's.",
        ),
        fires,
        tuple(
            fourth.multiselect(
                "Layers",
                found.layers,
                key="explorer_layers",
                bind="query-params",
                placeholder="all layers",
                on_change=_from_the_first,
            )
        ),
        third.selectbox(
            "Sorted by",
            orders,
            key="explorer_order",
            bind="query-params",
            on_change=_from_the_first,
            help="*Certainty* is the lead of the first category over the second in votes, *support* the share of "
            "corpora with the texts drawn anew that would give the neuron the same category. *Selectivity* is the "
            "share of all stored texts, the 50 that excite it most, that are of its category. *Turned* goes by the "
            "cosine of a neuron's weights with the base's, *changed* by how long the change is beside them, "
            "*parallel* by the share of it that lies along them. *Sign conflict* is the share of the weights changed "
            "by both of two models that they moved opposite ways, *pulled apart* goes by the cosine of their changes; "
            "both are the mean over every two fine-tunes unless two models are named.",
        ),
    )
    if text.strip() or query.only == NOTED:
        query = replace(query, noted=tuple(noted(done[model], notes, text)))
    order = (weights.results, told[query.order]) if weights and query.order in told else None
    try:
        rows = found_by(query, done, order)
    except (InputError, TimeoutError, RuntimeError) as error:  # each a sentence for the user
        st.warning(verbatim(error))
        query = replace(query, fires="")
        rows = found_by(query, done, order)
    if others and not weights:
        link("pages/4_Similarity.py", "Compare the weights, to sort by how far they turned", "compare_arrows", family)
    return Found(query, rows, weights)


def _words(place: DeltaGenerator) -> str:
    """What neurons are to fire on."""
    return place.text_input(
        "Find by text: fires on",
        key="explorer_fires",
        bind="query-params",
        max_chars=80,
        placeholder="a word or part of one",
        help=f"Neurons that are strongest at a token with this in it, in one of their {VOTERS} strongest texts",
    )


def _of_note(place: DeltaGenerator) -> str:
    """What is to stand in the notes of neurons."""
    return place.text_input(
        "In the note",
        key="explorer_noted",
        bind="query-params",
        max_chars=80,
        placeholder="a word of a note",
        help="Neurons whose note, that you kept with the family, has this in it",
    )


def _quick_lists(
    found: Classification, orders: Mapping[str, Order], others: Sequence[str], more: Sequence[str]
) -> None:
    """Names that set the filter and the order to what one often looks for."""
    lists = {f"most certain {category}": (category, CERTAINTY) for category in found.categories[1:]}
    lists |= {f"other category in {style.short(label)}": (OTHER + label, CERTAINTY) for label in others[:LISTED]}
    for kind in (TURNED, PARALLEL):
        names = [order.removeprefix(kind) for order in orders if order.startswith(kind)]
        lists |= {kind + style.short(name): (ALL, kind + name) for name in names[:LISTED]}
    lists |= {order: (ALL, order) for order in (CONFLICT, APART) if order in orders}
    lists |= {only: (only, PLACE) for only in (DEAD, *more)}
    st.pills(
        "Quick lists",
        list(lists),
        key=QUICK,
        format_func=verbatim,
        label_visibility="collapsed",
        on_change=lambda: _look_for(*lists[st.session_state[QUICK]]),
    )


def _look_for(only: str, order: str) -> None:
    """Set the filter and the order, in a callback of the quick lists, of which none stays chosen."""
    chosen = {"explorer_only": only, "explorer_order": order, "explorer_fires": "", "explorer_noted": ""}
    st.session_state.update({**chosen, QUICK: None})
    _from_the_first()


def _from_the_first() -> None:
    """Show what is found from its first row on, where the neuron that is looked at has another place in it."""
    st.session_state[PAGED] = 0
