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
    PLACE,
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
from pages.shared.frame.family import chosen_family

PAGE = 12  # rows of the table at a time
LISTED = 5  # models whose categories have columns


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
            "note": config.TextColumn(width="medium"),
            "votes": config.NumberColumn(help="Of the k texts that vote, those of its leading category"),
            "lead": config.NumberColumn(help="By how many votes the leading category is ahead of the second"),
            "score": config.NumberColumn(
                "largest score", format=decimals(frame["score"]), help="Its largest activation on any text"
            ),
            "selectivity": config.NumberColumn(
                format="percent", help="Of the 50 texts that excite it most, the share that is of its category"
            ),
            SUPPORT: config.NumberColumn(
                format="percent", help="Of corpora with the texts drawn anew, the share that gives it the same category"
            ),
            "dead": config.CheckboxColumn(
                help="Its largest score is below 1 % of the median of its layer's: hardly any text excites it"
            ),
            "fires on it": config.NumberColumn(help=f"Texts of its {VOTERS} strongest"),
            **{name: _column(order) for name, order in found.orders.items() if name in frame},
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
    numbers = {
        name: values(found.compared.results, order)[rows]
        for name, order in found.orders.items()
        if found.compared and (name in (found.query.order, CONFLICT, APART) or name.startswith(TURNED))
    }
    if found.query.order in numbers:  # where it is seen without scrolling
        frame[found.query.order] = numbers[found.query.order]
    if notes := noted(done[found.query.model], chosen_family().neuron_notes):
        frame["note"] = pd.Series(notes).reindex(rows, fill_value="").to_numpy()
    for name in ("votes", "lead", "score", "selectivity", "dead"):
        frame[name] = own[name].to_numpy()
    if found.query.order == SUPPORT:
        frame[SUPPORT] = support_of(str(done[found.query.model].results))[rows]
    frame = frame.assign(**numbers)
    if found.query.fires.strip():
        run = done[found.query.model]
        frame["fires on it"] = hits(str(run.results), run.inputs[run.parameters["model"]], found.query.fires)[rows]
    return frame


def _column(order: Order) -> ColumnConfig:
    """How the number of an order is shown."""
    return st.column_config.NumberColumn(order.title, format="%.4f" if order.column == "cosine" else "percent")


def _pick(run: Run, rows: Rows) -> None:
    """Go to the neuron of the clicked row."""
    if picked := st.session_state["explorer_table"]["selection"]["rows"]:
        go_to(run, int(rows[picked[0]]))
