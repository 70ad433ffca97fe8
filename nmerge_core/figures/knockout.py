"""What is lost when a category's neurons are switched off, against as many random ones (NeuronMerge, Figs 4 and 7)."""

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from nmerge_core.figures import style
from nmerge_core.figures.panels import LEGEND
from nmerge_core.figures.scores import Metric, metric

RANDOM = "random"


def spread(rows: pd.DataFrame) -> pd.DataFrame:
    """Reduce one group's repeats to proportion, neurons, mean, low, high and repeats, in order of proportion."""
    by_proportion = rows.groupby("proportion")
    return by_proportion.agg(
        neurons=("neurons", "mean"),
        mean=("value", "mean"),
        low=("value", "min"),
        high=("value", "max"),
        repeats=("seed", "nunique"),
    ).reset_index()


def curves(frame: pd.DataFrame, name: str, colours: Mapping[str, str], *, dark: bool = False) -> go.Figure:
    """Draw a metric over the share of neurons knocked out: the category's curve and its random control.

    The lines are means over repeats, the bands reach from the lowest to the highest repeat.

    Args:
        frame: Columns group (category or `random`), proportion, neurons, seed, metric, value (of `knockout.knockout`).
        name: The metric to draw.
        colours: The colour of each category.
        dark: The reader's theme.
    """
    frame, colours, name = style.plain_table(frame), style.plain_keys(colours), style.plain(name)
    known = metric(name)
    scale = 100 if known.share else 1
    rows = frame[frame["metric"] == name]
    figure = go.Figure(layout={"template": style.template(dark), "height": 420, "meta": {"legend": LEGEND}})
    groups = sorted(rows["group"].unique(), key=lambda group: group != RANDOM)  # the control lies behind
    for group in groups:
        curve = spread(rows[rows["group"] == group])
        colour = style.RANDOM if group == RANDOM else colours[group]
        title = "as many random neurons" if group == RANDOM else f"{group} neurons"
        if curve["repeats"].max() > 1:
            figure.add_scatter(
                x=100 * pd.concat([curve["proportion"], curve["proportion"][::-1]]),
                y=scale * pd.concat([curve["high"], curve["low"][::-1]]),
                mode="lines",
                fill="toself",
                fillcolor=style.translucent(colour, 0.18),
                line={"width": 0},
                hoverinfo="skip",
                legendgroup=group,
                showlegend=False,
            )
        figure.add_scatter(
            x=100 * curve["proportion"],
            y=scale * curve["mean"],
            name=title,
            legendgroup=group,
            mode="lines+markers",
            line={"color": colour, "width": 2.5, "dash": "dash" if group == RANDOM else "solid"},
            marker={"size": 7},
            hovertext=[_fact(group, row, known) for row in curve.to_dict("records")],
            hoverinfo="text",
        )
    figure.update_xaxes(title_text="neurons knocked out, % of the category's", range=[-3, 103])
    figure.update_yaxes(title_text=known.axis, rangemode="tozero" if known.higher_is_better else "normal")
    return figure


def _fact(group: str, row: Mapping[str, float], known: Metric) -> str:
    if row["proportion"] == 0:
        return f"nothing knocked out<br>{known.title} {known.write(row['mean'])}"
    repeats = int(row["repeats"])
    span = f" · {known.write(row['low'])} to {known.write(row['high'])} over {repeats} repeats" if repeats > 1 else ""
    return (
        f"{style.count(round(row['neurons']))} {group} neurons off ({style.percent(row['proportion'])} of the category)"
        f"<br>{known.title} {known.write(row['mean'])}{span}"
    )
