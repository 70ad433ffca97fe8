"""Models × tasks as numbers that sort, with the parameters of merges; the trade-off of any two columns, and a radar."""

from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from nmerge_core.comparison.score_tables import differing, shared_settings
from nmerge_core.figures.leaderboard import best, latex, leaderboard, less, markdown, sure_gains
from nmerge_core.figures.trade_offs import radar, trade_off
from pages.shared.charts.charts import csv_button, dark, show
from pages.shared.evaluate.comparisons import compared
from pages.shared.evaluate.scoreboard import draw_table
from pages.shared.evaluate.view import View
from pages.shared.frame.address import forget_unknown
from pages.shared.frame.scoring import Board
from pages.shared.frame.settings import KEPT
from pages.shared.frame.text import shortened, verbatim

AS_CHOSEN = "as chosen above"
PARAMETERS = "evaluate_parameters"  # the key of the switch that puts them into the leaderboard
TRADE_OFF, RADAR = "Trade-off", "Radar"
AXES, LINES = 3, 6  # the fewest columns of a radar, and the most models: more are not told apart


def numbers_of(board: Board, base: str, own: Mapping[str, str], view: View) -> tuple[pd.DataFrame, dict[str, str]]:
    """The leaderboard of all models and the tasks that are shown; and of these the fine-tunes that gained surely."""
    gained = sure_gains(compared(board.scores, board.samples, base), own) if base else {}
    chosen = board.only(board.names, view.tasks)
    return leaderboard(chosen.scores, board.names, base=base, own=gained), gained


def in_order(found: pd.DataFrame, names: list[str], pinned: Sequence[str]) -> list[str]:
    """Draw by what models are sorted, and return those that are shown, the best first, pinned ones before them."""
    st.subheader("Leaderboard", anchor=False)
    columns = [AS_CHOSEN, *found]
    forget_unknown("evaluate_sorted", columns)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        by = st.selectbox("Sorted by", columns, key="evaluate_sorted", width=320, **KEPT)
        st.toggle("With the parameters of merges", True, key=PARAMETERS, **KEPT)
    if by == AS_CHOSEN:
        return names
    ranks = found.loc[names, by].rank(ascending=less(by), method="first", na_option="bottom")
    return sorted(names, key=lambda name: (name not in pinned, ranks[name]))


def draw_leaderboard(
    board: Board, found: pd.DataFrame, parameters: pd.DataFrame, gained: Mapping[str, str], key: str
) -> None:
    """A row per model that is shown, with means, gains, tasks and parameters; the best of each column is marked.

    Args:
        board: What is shown.
        found: Its leaderboard, in its order.
        parameters: Of the merges among the models; empty where there are none.
        gained: The fine-tunes that gained surely, by task.
        key: The first part of the keys of what is drawn.
    """
    beside = len(parameters) > 0 and st.session_state.get(PARAMETERS, True)
    whole = found.join(parameters).fillna(dict.fromkeys(parameters, "")) if beside else found
    marks = best(whole)
    bold = marks.map(lambda mark: "font-weight: 700; background-color: #E69F0033" if mark else "")
    formats = {name: "{:.1f}" if ", %" in name or ", points" in name else "{:#.4g}" for name in found}
    styled = whole.style.format(formats, na_rep="–").apply(lambda _: bold, axis=None)
    pinned = {"model": st.column_config.TextColumn(width="medium", pinned=True)}
    st.dataframe(styled, key=f"{key}_leaderboard", height="content", column_config=pinned)
    draw_downloads(whole, f"{key}_leaderboard", "leaderboard")
    told = ", ".join(f"{verbatim(task)}: {verbatim(shortened(model))}" for task, model in gained.items())
    kept = f" Own gain kept: of what a task's own fine-tune gained over the base by more than chance ({told})."
    st.caption(
        f"Marked: the best of each column; of ↓ less is better.{kept if told else ''} "
        f"All by {verbatim(shared_settings(board.scores))}."
    )
    if unalike := differing(board.scores):
        told = "; ".join(f"{verbatim(task)}: {verbatim(names)}" for task, names in unalike.items())
        st.caption(f":material/warning: Side by side, and not to be compared, as they were scored otherwise: {told}.")
    with st.expander("Every metric with its interval", icon=":material/table:"):
        draw_table(board, "evaluate_run")


def draw_downloads(table: pd.DataFrame, key: str, name: str) -> None:
    """Save a table, the names of whose rows are models', as CSV, Markdown or LaTeX."""
    with st.container(horizontal=True, horizontal_alignment="right", gap="small"):
        csv_button(table.reset_index(), key, name)
        for label, write, ending in (("Markdown", markdown, "md"), ("LaTeX", latex, "tex")):
            st.download_button(
                label,
                write(table),
                f"{name}.{ending}",
                key=f"{key}_{ending}",
                type="tertiary",
                icon=":material/download:",
                on_click="ignore",
            )


def draw_charts(found: pd.DataFrame, tasks: int, colours: Mapping[str, str]) -> None:
    """The trade-off of any two columns of a leaderboard, or all of its tasks as a radar; of `tasks` at its end."""
    columns = list(found)
    if len(columns) < 2 or len(found) < 2:
        return
    st.subheader("Which trade-off is the best?", anchor=False)
    which = TRADE_OFF
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        if tasks >= AXES:
            which = st.segmented_control(
                "Drawn as", [TRADE_OFF, RADAR], default=TRADE_OFF, required=True, key="evaluate_chart", **KEPT
            )
        if which == TRADE_OFF:
            own = columns[-tasks:]
            first, second = (own[0], own[1]) if len(own) > 1 else (columns[0], columns[1])
            for key in ("evaluate_across", "evaluate_up"):
                forget_unknown(key, columns)
            across = st.selectbox("Across", columns, columns.index(first), key="evaluate_across", width=320, **KEPT)
            up = st.selectbox("Up", columns, columns.index(second), key="evaluate_up", width=320, **KEPT)
    if which == RADAR:
        _draw_radar(found[columns[-tasks:]].dropna(), colours)
    elif across == up:
        st.info("Choose two columns.")
    else:
        show(trade_off(found, across, up, colours, dark=dark()), "evaluate_trade_off", found.reset_index(), "trade-off")
        st.caption("On the dotted line: models that no other is as good as in both, and better than in one.")


def _draw_radar(table: pd.DataFrame, colours: Mapping[str, str]) -> None:
    drawn = table.iloc[:LINES]
    show(radar(drawn, colours, dark=dark()), "evaluate_radar", drawn.reset_index(), "radar")
    more = f" Drawn are the first {LINES} of {len(table)} models: pin, sort or filter for others."
    st.caption(f"Each number as a share of the best that is drawn.{more if len(table) > LINES else ''}")
