"""The neurons that were found: the table of them, and the steps from one to the next."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
import streamlit as st
from streamlit.elements.lib.column_types import ColumnConfig

from nmerge_core.runs.folder import Run
from pages.shared.explorer.compared import APART, CONFLICT, TURNED, Order, values
from pages.shared.explorer.finding import PAGED, Found
from pages.shared.explorer.searching import (
    CERTAINTY,
    PLACE,
    SCORE,
    SELECTIVITY,
    SUPPORT,
    VOTERS,
    Rows,
    hits,
    noted,
    place_of,
    row_of,
    support_of,
    table_of,
)
from pages.shared.frame.choice import decimals
from pages.shared.frame.clickable import draw_clickable
from pages.shared.frame.family import chosen_family
from pages.shared.frame.text import verbatim

PAGE = 12  # rows of the table at a time
LISTED = 5  # models whose categories have columns
CATEGORY, ORDER = 86, 104  # pixels of the columns of a model, and of what was compared
COLUMNS = {PLACE: "neuron", CERTAINTY: "lead", SUPPORT: SUPPORT, SCORE: "score", SELECTIVITY: "selectivity"}  # by order


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
    draw_clickable(
        "explorer_table",
        frame,
        partial(_pick, run, found, rows),
        heads=True,
        height="content",
        column_config=_columns(done, found, frame),
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
    st.caption(
        "A click on a row leads to its neuron, one on the head of a column sorts all neurons by it. Scroll sideways "
        f"for all {len(frame.columns) - 1} columns."
    )


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
    """What is told of some neurons: place, what one sorts by and looks for, category in each model, and the rest."""
    run = done[found.query.model]
    own = table_of(str(run.results)).iloc[rows]
    others = [label for label in done if label != found.query.model]
    categories = {
        label: table_of(str(done[label].results))["category"].iloc[rows].astype(str).to_numpy()
        for label in [found.query.model, *others][:LISTED]
    }
    numbers = {name: own[name].to_numpy() for name in ("selectivity", "score", "lead", "votes", "dead")}
    numbers |= {
        name: values(found.compared.results, order)[rows]
        for name, order in found.orders.items()
        if found.compared and (name in (found.query.order, CONFLICT, APART) or name.startswith(TURNED))
    }
    if found.query.order == SUPPORT:
        numbers[SUPPORT] = support_of(str(run.results))[rows]
    first = {}
    if found.query.fires.strip():
        first["fires on it"] = hits(str(run.results), run.inputs[run.parameters["model"]], found.query.fires)[rows]
    if (sorted_by := COLUMNS.get(found.query.order, found.query.order)) in numbers:
        first[sorted_by] = numbers[sorted_by]
    if notes := noted(run, chosen_family().neuron_notes):
        numbers = {"note": pd.Series(notes).reindex(rows, fill_value="").to_numpy()} | numbers
    frame = own[["layer", "neuron"]].reset_index(drop=True)
    return frame.assign(**(first | categories | {name: each for name, each in numbers.items() if name not in first}))


def _columns(done: Mapping[str, Run], found: Found, frame: pd.DataFrame) -> dict[str, ColumnConfig]:
    """How the columns are shown: as narrow as what they say, those that tell which neuron it is always in sight."""
    config = st.column_config
    return {
        "here": config.TextColumn("", width=24, pinned=True),
        "layer": config.NumberColumn(width=52, pinned=True),
        "neuron": config.NumberColumn(format="localized", width=68, pinned=True),
        **{
            label: config.TextColumn(width=CATEGORY, help=f"Its category in {verbatim(label)}")
            for label in done
            if label in frame
        },
        "note": config.TextColumn(width="medium"),
        "votes": config.NumberColumn(width=56, help="Of the k texts that vote, those of its leading category"),
        "lead": config.NumberColumn(width=56, help="By how many votes the leading category is ahead of the second"),
        "score": config.NumberColumn(
            format=decimals(frame["score"]), width=68, help="Largest score: its largest activation on any text"
        ),
        "selectivity": config.NumberColumn(
            format="percent",
            width=84,
            help="Of the 50 texts that excite it most, the share that is of its category",
        ),
        SUPPORT: config.NumberColumn(
            format="percent",
            width=72,
            help="Of corpora with the texts drawn anew, the share that gives it the same category",
        ),
        "dead": config.CheckboxColumn(
            width=52, help="Its largest score is below 1 % of the median of its layer's: hardly any text excites it"
        ),
        "fires on it": config.NumberColumn(width=84, help=f"Texts of its {VOTERS} strongest"),
        **{name: _column(order) for name, order in found.orders.items() if name in frame},
    }


def _column(order: Order) -> ColumnConfig:
    """How the number of an order is shown."""
    shown = "%.4f" if order.column == "cosine" else "percent"
    return st.column_config.NumberColumn(order.title, format=shown, width=ORDER)


def _pick(run: Run, found: Found, rows: Rows, row: int | None, column: str | None) -> None:
    """Go to the neuron of the clicked row; or sort by the column whose head was clicked."""
    if row is not None:
        go_to(run, int(rows[row]))
        return
    by = {name: order for order, name in COLUMNS.items()} | {order: order for order in found.orders}
    if column in by:
        st.session_state.update({"explorer_order": by[column], PAGED: 0})
