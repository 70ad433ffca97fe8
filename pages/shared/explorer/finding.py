"""The controls that find neurons, the table of those found, and the steps from one to the next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import streamlit as st

from nmerge_core.activations.store import Classification
from nmerge_core.errors import InputError
from nmerge_core.family import Family
from nmerge_core.figures import style
from nmerge_core.runs.folder import Run
from pages.shared.explorer.searching import (
    ALL,
    CERTAINTY,
    DEAD,
    OTHER,
    PLACE,
    SCORE,
    SELECTIVITY,
    SUPPORT,
    TURNED,
    VOTERS,
    Query,
    Rows,
    found_by,
    hits,
    place_of,
    row_of,
    similarity_of,
    support_of,
    table_of,
    turned,
)
from pages.shared.frame.address import forget_unknown
from pages.shared.frame.choice import decimals
from pages.shared.frame.page import link
from pages.shared.frame.text import verbatim
from pages.shared.neurons.chosen import opened

PAGE = 12  # rows of the table at a time
LISTED = 5  # models whose categories have columns
QUICK = "explorer_quick"
PAGED = "explorer_page"  # the page of the table that the reader has turned to; else it follows the neuron


@dataclass(frozen=True)
class Found:
    """The neurons that one steps through: rows of `table_of` in order, and what they were looked for by."""

    query: Query
    rows: Rows
    cosines: Mapping[str, tuple[str, str]]  # of each fine-tune the run that compared its weights, and its name there

    def place(self, row: int) -> int | None:
        """Where a neuron is among them; None where it is not."""
        at = np.flatnonzero(self.rows == row)
        return int(at[0]) if len(at) else None


def find(family: Family, done: Mapping[str, Run], model: str) -> Found:
    """The controls of what is looked for, folded, and what is found."""
    found = opened(done[model])
    run, names = similarity_of(family)
    cosines = {label: (str(run.results), names[label]) for label in done if run is not None and label in names}
    others = [label for label in done if label != model]
    only = [ALL, *found.categories, *(OTHER + label for label in others), DEAD]
    orders = [PLACE, CERTAINTY, SUPPORT, SCORE, SELECTIVITY, *(TURNED + label for label in cosines)]
    for key, options in (("explorer_only", only), ("explorer_order", orders), ("explorer_layers", found.layers)):
        forget_unknown(key, options)
    _quick_lists(found, cosines, others)
    first, second, third, fourth = st.columns([1.2, 1.2, 1.2, 1.4])
    fires = second.text_input(
        "Fires on",
        key="explorer_fires",
        bind="query-params",
        max_chars=80,
        placeholder="a word or part of one",
        help=f"Neurons that are strongest at a token with this in it, in one of their {VOTERS} strongest texts",
    )
    query = Query(
        model,
        first.selectbox(
            "Which neurons",
            only,
            key="explorer_only",
            bind="query-params",
            help="Categories are those of the chosen model. *Dead* ones hardly react to any text: their largest score "
            "is below 1 % of the median of their layer's.",
        ),
        fires,
        tuple(
            fourth.multiselect(
                "Layers", found.layers, key="explorer_layers", bind="query-params", placeholder="all layers"
            )
        ),
        third.selectbox(
            "Sorted by",
            orders,
            key="explorer_order",
            bind="query-params",
            help="*Certainty* is the lead of the first category over the second in votes, *support* the share of "
            "corpora with the texts drawn anew that would give the neuron the same category. *Selectivity* is the "
            "share of all stored texts, the 50 that excite it most, that are of its category. *Turned* goes by the "
            "cosine of a neuron's weights with the base's.",
        ),
    )
    try:
        rows = found_by(query, done, cosines)
    except (InputError, TimeoutError, RuntimeError) as error:  # each a sentence for the user
        st.warning(verbatim(error))
        rows = found_by(Query(model, query.only, "", query.layers, query.order), done, cosines)
    if others and not cosines:
        link("pages/4_Similarity.py", "Compare the weights, to sort by how far they turned", "compare_arrows", family)
    return Found(query, rows, cosines)


def _quick_lists(found: Classification, cosines: Mapping[str, object], others: Sequence[str]) -> None:
    """Names that set the filter and the order to what one often looks for."""
    lists = {f"most certain {category}": (category, CERTAINTY) for category in found.categories[1:]}
    lists |= {f"other category in {style.short(label)}": (OTHER + label, CERTAINTY) for label in others[:LISTED]}
    lists |= {f"turned most in {style.short(label)}": (ALL, TURNED + label) for label in [*cosines][:LISTED]}
    lists |= {DEAD: (DEAD, PLACE)}
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
    chosen = {"explorer_only": only, "explorer_order": order, "explorer_fires": ""}
    st.session_state.update({**chosen, QUICK: None})
    st.session_state.pop(PAGED, None)


def go_to(done: Run, row: int) -> None:
    """Choose the neuron of a row; the table follows."""
    layer, neuron = place_of(done, row)
    st.session_state.update({"layer": layer, "neuron": neuron})
    st.session_state.pop(PAGED, None)


def step(direction: int, done: Run, found: Found) -> None:
    """Go to the next neuron found, or the one before, round the ends; from one that is not found to the nearest."""
    if not len(found.rows):
        return
    row = row_of(done, st.session_state["layer"], st.session_state["neuron"])
    place = found.place(row)
    if place is not None:
        place += direction
    elif found.query.order == PLACE and not found.query.fires.strip():
        place = int(np.searchsorted(found.rows, row)) - (direction < 0)
    else:
        place = 0 if direction > 0 else -1
    go_to(done, int(found.rows[place % len(found.rows)]))


def draw_table(done: Mapping[str, Run], found: Found, layer: int, neuron: int) -> None:
    """A page of the neurons found, that of the chosen one unless the reader turned to another."""
    run = done[found.query.model]
    place = found.place(row_of(run, layer, neuron))
    pages = max(1, -(-len(found.rows) // PAGE))
    page = min(st.session_state.get(PAGED, (place or 0) // PAGE), pages - 1)
    rows = found.rows[page * PAGE : (page + 1) * PAGE]
    frame = columns_of(done, found, rows)
    frame.insert(0, "here", ["▶" if at == place else "" for at in range(page * PAGE, page * PAGE + len(rows))])
    config = st.column_config
    st.dataframe(
        frame,
        hide_index=True,
        key="explorer_table",
        on_select=partial(_pick, run, rows),
        selection_mode="single-row",
        column_config={
            "here": config.TextColumn("", width=24),
            "neuron": config.NumberColumn(format="localized"),
            "votes": config.NumberColumn(help="Votes of the leading category"),
            "lead": config.NumberColumn(help="Over the second category, in votes"),
            "score": config.NumberColumn("largest score", format=decimals(frame["score"])),
            "selectivity": config.NumberColumn(format="percent"),
            SUPPORT: config.NumberColumn(format="percent", help="Of corpora with the texts drawn anew"),
            "dead": config.CheckboxColumn(),
            "fires on it": config.NumberColumn(help=f"Texts of its {VOTERS} strongest"),
            **{TURNED + label: config.NumberColumn(f"cosine, {label}", format="%.4f") for label in found.cosines},
        },
    )
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="explorer_pages"):
        for name, icon, target in (("Earlier", "chevron_left", page - 1), ("Later", "chevron_right", page + 1)):
            st.button(
                name,
                key=f"explorer_{name.lower()}",
                icon=f":material/{icon}:",
                type="tertiary",
                disabled=not 0 <= target < pages,
                on_click=partial(st.session_state.update, {PAGED: target}),
            )
        st.caption(f"Rows {page * PAGE + 1:,} to {page * PAGE + len(rows):,} of {len(found.rows):,}")
        csv_button_of(done, found)


@st.fragment
def csv_button_of(done: Mapping[str, Run], found: Found) -> None:
    """All neurons found, as CSV, made when it is asked for."""
    st.download_button(
        "CSV",
        lambda: columns_of(done, found, found.rows).to_csv(index=False).encode(),
        "neurons.csv",
        "text/csv",
        key="explorer_found_csv",
        type="tertiary",
        icon=":material/download:",
        on_click="ignore",
    )


def columns_of(done: Mapping[str, Run], found: Found, rows: Rows) -> pd.DataFrame:
    """What is told of some neurons: place, category in each model, and what one sorts by."""
    own = table_of(str(done[found.query.model].results)).iloc[rows]
    frame = own[["layer", "neuron"]].reset_index(drop=True)
    first = [found.query.model, *(label for label in done if label != found.query.model)]
    for label in first[:LISTED]:
        frame[label] = table_of(str(done[label].results))["category"].iloc[rows].astype(str).to_numpy()
    for name in ("votes", "lead", "score", "selectivity", "dead"):
        frame[name] = own[name].to_numpy()
    if found.query.order == SUPPORT:
        frame[SUPPORT] = support_of(str(done[found.query.model].results))[rows]
    for label, compared in found.cosines.items():
        frame[TURNED + label] = turned(*compared)[rows]
    if found.query.fires.strip():
        run = done[found.query.model]
        frame["fires on it"] = hits(str(run.results), run.inputs[run.parameters["model"]], found.query.fires)[rows]
    return frame


def _pick(run: Run, rows: Rows) -> None:
    """Go to the neuron of the clicked row."""
    if picked := st.session_state["explorer_table"]["selection"]["rows"]:
        go_to(run, int(rows[picked[0]]))
