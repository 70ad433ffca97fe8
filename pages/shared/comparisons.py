"""Models × tasks as numbers that sort, and by what the models differ from one of them, told with how sure that is."""

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from nmerge_core.figures.leaderboard import best, latex, leaderboard, markdown, sure_gains
from nmerge_core.figures.scores import metric
from nmerge_core.score_tables import compare, shared_settings
from pages.shared.charts import csv_button
from pages.shared.scoreboard import draw_table
from pages.shared.scoring import Board
from pages.shared.settings import KEPT
from pages.shared.text import verbatim


def draw_leaderboard(board: Board, base: str, own: Mapping[str, str]) -> None:
    """A row per model, a column per task, with means and gains; the best of each column is marked.

    Args:
        board: What was scored.
        base: The base's name; empty where it was not scored.
        own: The fine-tune of each task.
    """
    st.subheader("Leaderboard", anchor=False)
    gained = sure_gains(_compared(board.scores, board.samples, base), own) if base else {}
    found = leaderboard(board.scores, board.names, base=base, own=gained)
    marks = best(found)
    bold = marks.map(lambda mark: "font-weight: 700; background-color: #E69F0033" if mark else "")
    styled = found.style.format(_formats(found), na_rep="–").apply(lambda _: bold, axis=None)
    st.dataframe(styled, key="evaluate_leaderboard")
    with st.container(horizontal=True, horizontal_alignment="right", gap="small"):
        csv_button(found.reset_index(), "evaluate_leaderboard", "leaderboard")
        for name, write, ending in (("Markdown", markdown, "md"), ("LaTeX", latex, "tex")):
            st.download_button(
                name,
                write(found),
                f"leaderboard.{ending}",
                key=f"evaluate_leaderboard_{ending}",
                type="tertiary",
                icon=":material/download:",
                on_click="ignore",
            )
    told = ", ".join(f"{verbatim(task)}: {verbatim(model)}" for task, model in gained.items())
    kept = f" Own gain kept: of what a task's own fine-tune gained over the base by more than chance ({told})."
    st.caption(
        f"Marked: the best of each column; of ↓ less is better.{kept if told else ''} "
        f"All by {verbatim(shared_settings(board.scores))}."
    )
    with st.expander("Every metric with its interval", icon=":material/table:"):
        draw_table(board, "evaluate_run")


def draw_differences(board: Board) -> None:
    """By what every model differs from one that is chosen, by paired tests over all rows together."""
    if len(board.names) < 2:
        return
    st.subheader("Is the difference more than chance?", anchor=False)
    baseline = st.selectbox("Compared with", board.names, key="evaluate_baseline", width=320, **KEPT)
    found = _compared(board.scores, board.samples, baseline)
    st.dataframe(_told(found), hide_index=True, key="evaluate_differences", column_config=_COLUMNS, height="content")
    st.caption("Compared problem by problem; of a metric of all problems together by each problem's own value.")
    unlike = found[found["unlike"] != ""]
    for task, model, why in zip(unlike["task"], unlike["model"], unlike["unlike"], strict=True):
        st.info(f"**{verbatim(model)}** on {verbatim(task)} is not compared: {verbatim(why)}.")


_COLUMNS = {
    "Verdict": st.column_config.TextColumn(
        help="At 5 % over all rows together (Holm): an interval that leaves out 0 need not tell two models apart"
    ),
    "Difference": st.column_config.TextColumn(alignment="right"),
    "95 %": st.column_config.TextColumn(help="The interval of the difference in this row alone", alignment="right"),
    "p (Holm)": st.column_config.NumberColumn(format="%.2g"),
    "Could show": st.column_config.TextColumn(
        help="The smallest difference that so many problems show four times in five", alignment="right"
    ),
}


@st.cache_data(max_entries=16, show_spinner="Comparing the models")
def _compared(scores: pd.DataFrame, samples: pd.DataFrame, baseline: str) -> pd.DataFrame:
    return compare(scores, samples, baseline)


def _told(found: pd.DataFrame) -> pd.DataFrame:
    """Write the comparisons for reading, a line per model and task."""
    lines = []
    for row in found.to_dict("records"):
        known = metric(row["metric"])
        unit = " points" if known.share else ""
        line = {"Model": row["model"], "Task": f"{row['task']} · {known.title}"}
        line["Verdict"] = row["verdict"] or "not compared"
        if not row["unlike"]:
            shown = "–" if pd.isna(row["detectable"]) else known.change(row["detectable"]).removeprefix("+") + unit
            line |= {
                "Difference": known.change(row["difference"]) + unit,
                "95 %": f"{known.change(row['low'])} to {known.change(row['high'])}",
                "p (Holm)": row["adjusted"],
                "Could show": shown,
                "Problems": row["problems"],
                "Test": row["test"],
            }
        lines.append(line)
    columns = ["Model", "Task", "Verdict", "Difference", "95 %", "p (Holm)", "Could show", "Problems", "Test"]
    return pd.DataFrame(lines).reindex(columns=columns)


def _formats(found: pd.DataFrame) -> dict[str, str]:
    return {column: "{:.1f}" if ", %" in column or ", points" in column else "{:.4g}" for column in found}
