"""What is lost when a category's neurons are switched off, against as many random ones (NeuronMerge, Figs 4 and 7)."""

from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from nmerge_core.figures import style
from nmerge_core.figures.panels import cell, line_trace, panels
from nmerge_core.figures.scores import Metric, metric

RANDOM, INTACT = "random", "intact"  # groups beside the category
OFF_AXIS = "share of the category's neurons switched off, %"
KEPT_AXIS = "share of the category's neurons kept, all others of these layers off, %"
NARROW_OFF, NARROW_KEPT = "neurons off, % of the category", "neurons kept, % of the category"  # under one of several


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


def curves(
    frame: pd.DataFrame, name: str, colours: Mapping[str, str], *, keep_only: bool = False, dark: bool = False
) -> go.Figure:
    """Draw a metric over the share of neurons that are off, or kept: the category's curve and its random control.

    A panel for each model. The lines are means over draws, the bands reach from the lowest draw to the highest; of the
    whole category there is but one. The `customdata` of the category's points is [model, None, category].

    Args:
        frame: Columns model, group (category, `random` or `intact`), proportion, neurons, seed, metric, value.
        name: The metric to draw.
        colours: The colour of each category.
        keep_only: Whether the neurons are kept, and all others off.
        dark: The reader's theme.
    """
    frame, colours, name = style.plain_table(frame), style.plain_keys(colours), style.plain(name)
    known, rows = metric(name), frame[frame["metric"] == name]
    models = style.short_names(dict.fromkeys(rows["model"]), 26) if "model" in rows else {"": ""}
    traces: list[dict[str, Any]] = []
    for index, model in enumerate(models):
        own = rows[rows["model"] == model] if model else rows
        for group in sorted(own["group"].unique(), key=_depth):
            curve = spread(own[own["group"] == group])
            colour = style.RANDOM if group == RANDOM else style.base_colour(dark) if group == INTACT else colours[group]
            named = {trace["name"] for trace in traces}
            *band, line = _lines(index, group, curve, known, colour, keep_only=keep_only, named=named)
            behind = {} if group in (RANDOM, INTACT) else {"customdata": [[model, None, group]] * len(curve)}
            traces += [*band, line | behind]
    layout = panels(
        list(models.values()),
        x_title=_x_title(len(models), keep_only),
        y_title=known.axis,
        xaxis={"range": [-3, 103]},
        yaxis={"rangemode": "tozero" if known.higher_is_better else "normal"},
        height=380 if len(models) == 1 else 320,
        legend=[trace["name"] for trace in traces if trace["showlegend"]],
        dark=dark,
    )
    return go.Figure(traces, layout)


def _x_title(panels: int, keep_only: bool) -> str:
    if panels == 1:
        return KEPT_AXIS if keep_only else OFF_AXIS
    return NARROW_KEPT if keep_only else NARROW_OFF


def _depth(group: str) -> int:
    """Sort the groups as they lie upon each other."""
    return {INTACT: 0, RANDOM: 1}.get(group, 2)


def _lines(
    panel: int,
    group: str,
    curve: pd.DataFrame,
    known: Metric,
    colour: str,
    *,
    keep_only: bool,
    named: Collection[str | None],
) -> list[dict[str, Any]]:
    """A group's band, where there are several draws, and its line; that of the intact model is level."""
    scale = 100 if known.share else 1
    title = {RANDOM: "as many random neurons", INTACT: "intact model"}.get(group, f"{group} neurons")
    if group == INTACT:
        curve = pd.concat([curve.assign(proportion=0.0), curve])
    line = line_trace(
        panel,
        title,
        100 * curve["proportion"],
        scale * curve["mean"],
        colour,
        [_fact(group, row, known, keep_only) for row in curve.to_dict("records")],
        in_legend=title not in named,
        mark={RANDOM: style.Mark("dash", "circle", ""), INTACT: style.Mark("dot", "circle", "")}.get(
            group, style.PLAIN
        ),
        marker=7,
    )
    if group == INTACT:
        line["mode"] = "lines"
    if curve["repeats"].max() == 1:
        return [line]
    band = {
        "type": "scatter",
        "x": 100 * pd.concat([curve["proportion"], curve["proportion"][::-1]]),
        "y": scale * pd.concat([curve["high"], curve["low"][::-1]]),
        "mode": "lines",
        "fill": "toself",
        "fillcolor": style.translucent(colour, 0.18),
        "line": {"width": 0},
        "hoverinfo": "skip",
        "legendgroup": title,
        "name": None,
        "showlegend": False,
        **cell(panel),
    }
    return [band, line]


def _fact(group: str, row: Mapping[str, float], known: Metric, keep_only: bool) -> str:
    value = f"{known.title} {known.write(row['mean'])}"
    if group == INTACT or (row["proportion"] == 0 and not keep_only):
        return f"nothing knocked out<br>{value}"
    if row["proportion"] == 0:
        return f"no neuron of these layers kept<br>{value}"
    repeats = int(row["repeats"])
    span = f" · {known.write(row['low'])} to {known.write(row['high'])} over {repeats} repeats" if repeats > 1 else ""
    what = f"{style.count(round(row['neurons']))} {group} neurons {'kept' if keep_only else 'off'}"
    return f"{what} ({style.percent(row['proportion'])} of the category)<br>{value}{span}"
