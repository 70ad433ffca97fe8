"""Means of models with their 95 % intervals, as points: a panel per task or category."""

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go

from nmerge_core.figures import style
from nmerge_core.figures.panels import LEGEND, TITLE, cell, panels
from nmerge_core.figures.scores import Metric, metric

_SHARES = {"range": [-4, 104], "tickvals": [0, 20, 40, 60, 80, 100], "tickformatstops": []}
_MARGIN = 0.08  # of what the intervals span, on either side


def points(found: pd.DataFrame, colours: Mapping[str, str], models: Sequence[str], *, dark: bool = False) -> go.Figure:
    """Draw each row's means, a panel per row and a point with its whiskers per model.

    Args:
        found: Columns row (a task or a category), metric, model, value, low, high, problems.
        colours: The colour of each model.
        models: The models to draw, first on top.
        dark: The reader's theme.
    """
    found, colours, models = style.plain_table(found), style.plain_keys(colours), [*map(style.plain, models)]
    short, marks = style.short_names(models), style.marks({model: colours[model] for model in models})
    metrics = {row: metric(own["metric"].iloc[0]) for row, own in found.groupby("row", sort=False)}
    layout = panels(
        [f"{row} · {known.axis}" for row, known in metrics.items()],
        columns=2,
        yaxis={
            "categoryorder": "array",
            "categoryarray": list(reversed(short.values())),
            "range": [-0.6, len(models) - 0.4],
            "ticklabelstandoff": 6,
        },
        height=74 + 24 * len(models),
        dark=dark,
    )
    layout |= {"margin": {"t": TITLE}, "height": layout["height"] - LEGEND}
    layout["meta"] |= {"legend": 0}
    traces = []
    for index, (row, known) in enumerate(metrics.items()):
        own = found[found["row"] == row].set_index("model").reindex(models).dropna(subset=["value"])
        scale = 100 if known.share else 1
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "y": [short[model] for model in own.index],
                "x": scale * own["value"],
                "error_x": {
                    "array": scale * (own["high"] - own["value"]),
                    "arrayminus": scale * (own["value"] - own["low"]),
                    "thickness": 1.5,
                    "width": 4,
                    "color": "#8A8F98",
                },
                "marker": {
                    "size": 10,
                    "color": [colours[model] for model in own.index],
                    "symbol": [marks[model].symbol for model in own.index],
                },
                "hovertext": [_fact(str(model), row, each, known) for model, each in own.iterrows()],
                "hoverinfo": "text",
                "showlegend": False,
                **cell(index),
            }
        )
        low, high = float(own["low"].min()), float(own["high"].max())
        room = _MARGIN * (high - low) or 1.0  # where all are equal and sure
        layout[f"xaxis{index + 1}"] |= _SHARES if known.share else {"range": [low - room, high + room]}
    return go.Figure(traces, layout)


def _fact(model: str, row: str, found: pd.Series, known: Metric) -> str:
    return (
        f"{model} · {row} · {known.title}<br>{known.write(found['value'])}, 95 % between {known.write(found['low'])} "
        f"and {known.write(found['high'])} · {style.count(found['problems'])} problems"
    )
