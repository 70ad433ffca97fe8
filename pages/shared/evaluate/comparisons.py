"""By what models differ from one of them, told with how sure that is."""

import pandas as pd
import streamlit as st

from nmerge_core.comparison.score_tables import BETTER, WORSE, compare
from nmerge_core.figures.scores import metric
from pages.shared.frame.scoring import Board
from pages.shared.frame.settings import KEPT
from pages.shared.frame.terms import HOLM
from pages.shared.frame.text import shortened, verbatim

NAMED = 6  # comparisons that are said by name
SEEN, ROW = 12, 35  # rows that are seen at once, and the pixels of one


def draw_differences(board: Board, shown: Board) -> None:
    """By what every model differs from one that is chosen, by paired tests over all rows of the board together.

    Those of what is `shown` are drawn: a choice made after looking makes nothing surer.
    """
    if len(board.names) < 2:
        return
    st.subheader("Is the difference more than chance?", anchor=False)
    baseline = st.selectbox("Compared with", board.names, key="evaluate_baseline", width=320, **KEPT)
    every = compared(board.scores, board.samples, baseline)
    tasks = shown.scores["task"].unique()
    found = every[every["model"].isin(shown.names) & every["task"].isin(tasks)]
    st.markdown(_summary(found, baseline))
    st.dataframe(
        _told(found),
        hide_index=True,
        key="evaluate_differences",
        column_config=_COLUMNS,
        height="content" if len(found) <= SEEN else ROW * (SEEN + 1) + 3,
    )
    more = f" Adjusted over all {len(every)} comparisons, also those that are not shown."
    st.caption(
        "Compared problem by problem; of a metric of all problems together by each problem's own value."
        f"{more if len(found) < len(every) else ''}"
    )
    for why, rows in found[found["unlike"] != ""].groupby("unlike", sort=False):
        named = [f"**{verbatim(shortened(each.model))}** on {verbatim(each.task)}" for each in rows.itertuples()]
        more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
        verb = "is" if len(named) == 1 else "are"
        st.info(f"{', '.join(named[:NAMED])}{more} {verb} not compared: {verbatim(why)}.")


def _summary(found: pd.DataFrame, baseline: str) -> str:
    """How many comparisons show a difference, and which, as Markdown."""
    sure = found[found["verdict"].isin([BETTER, WORSE])]
    named = [
        f"**{verbatim(shortened(each.model))}** {each.verdict} on {verbatim(each.task)}" for each in sure.itertuples()
    ]
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    told = f": {', '.join(named[:NAMED])}{more}" if named else ""
    against = verbatim(shortened(baseline))
    return f"{len(sure) or 'None'} of {len(found)} differ from **{against}** by more than chance{told}."


_COLUMNS = {
    "Model": st.column_config.TextColumn(width="medium", pinned=True),
    "Verdict": st.column_config.TextColumn(
        help="At 5 % over all rows together (Holm): an interval that leaves out 0 need not tell two models apart"
    ),
    "Difference": st.column_config.TextColumn(alignment="right"),
    "95 %": st.column_config.TextColumn(help="The interval of the difference in this row alone", alignment="right"),
    "p (Holm)": st.column_config.NumberColumn(help=HOLM, format="%.2g"),
    "Could show": st.column_config.TextColumn(
        help="The smallest difference that so many problems show four times in five", alignment="right"
    ),
}


@st.cache_data(max_entries=16, show_spinner="Comparing the models")
def compared(scores: pd.DataFrame, samples: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Every other model compared with the baseline, as `score_tables.compare`; kept, as pages are drawn often."""
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
