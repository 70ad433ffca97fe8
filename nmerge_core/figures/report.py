"""Figures of reports: methods with their intervals, a score over a parameter or two, and knock-outs by category."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from nmerge_core.figures import style
from nmerge_core.figures.panels import legend_room, line_trace, panels

_ROW = 26  # pixels of a method
_SCALE = [[0.0, "#F4E6DD"], [1.0, style.MERGE]]  # of a merge's score: tints of its colour


def methods(table: pd.DataFrame, unit: str, highlighted: Sequence[str], *, dark: bool = False) -> go.Figure:
    """Draw a point with its 95 % interval per method, the first on top.

    Args:
        table: Columns method, mean, low, high.
        unit: What they are in.
        highlighted: The methods in the colour of merges; the others are grey.
        dark: The reader's theme.
    """
    table, unit = style.plain_table(table), style.plain(unit)
    colours = [style.MERGE if name in highlighted else style.RANDOM for name in table["method"]]
    told = [
        f"{row.method} · {style.significant(row.mean)} {unit} · 95 % interval {style.significant(row.low)} to "
        f"{style.significant(row.high)}"
        for row in table.itertuples()
    ]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": table["mean"].tolist(),
        "y": table["method"].tolist(),
        "error_x": {
            "type": "data",
            "array": (table["high"] - table["mean"]).tolist(),
            "arrayminus": (table["mean"] - table["low"]).tolist(),
            "color": style.RANDOM,
            "thickness": 1.5,
            "width": 0,
        },
        "marker": {"color": colours, "size": 10},
        "hovertext": told,
        "hoverinfo": "text",
    }
    layout: dict[str, Any] = {
        "template": style.template(dark),
        "height": 70 + _ROW * len(table),
        "margin": {"t": 10},
        "showlegend": False,
        "xaxis": {"title": {"text": f"mean, {unit}"}, "tickformatstops": style.TICKS},
        "yaxis": {"autorange": "reversed", "type": "category", "ticklabelstandoff": 6},
    }
    return go.Figure([trace], layout)


def course(table: pd.DataFrame, parameter: str, unit: str, *, dark: bool = False) -> go.Figure:
    """Draw the mean over a parameter, with its 95 % interval as a band.

    Args:
        table: Columns `parameter`, mean, low, high.
        parameter: The column that lies along the axis, which is called so.
        unit: What the others are in.
        dark: The reader's theme.
    """
    x, unit = table[parameter].tolist(), style.plain(unit)
    told = [
        f"{parameter} = {at:g} · {style.significant(mean)} {unit}" for at, mean in zip(x, table["mean"], strict=True)
    ]
    layout = panels([""], x_title=parameter, y_title=f"mean, {unit}", height=320, dark=dark)
    band = _band(0, x, table["low"].tolist(), table["high"].tolist(), style.MERGE)
    line = line_trace(0, "mean", x, table["mean"].tolist(), style.MERGE, told, in_legend=False, marker=7)
    return go.Figure([band, line], layout)


def grid(cells: pd.DataFrame, across: str, up: str, unit: str, *, dark: bool = False) -> go.Figure:
    """Draw a score for each pair of values of two things.

    Args:
        cells: A row per value of the one, a column per value of the other.
        across: What the columns are.
        up: What the rows are.
        unit: What the scores are in.
        dark: The reader's theme.
    """
    values, unit = cells.to_numpy(float), style.plain(unit)
    trace = {
        "type": "heatmap",
        "x": [style.plain(str(name)) for name in cells.columns],
        "y": [style.plain(str(name)) for name in cells.index],
        "z": values.tolist(),
        "text": [[style.significant(value) for value in row] for row in values],
        "texttemplate": "%{text}",
        "colorscale": _SCALE,
        "colorbar": {"title": {"text": unit}},
        "hovertemplate": f"{style.plain(across)} %{{x}}, {style.plain(up)} %{{y}}: %{{text}} {unit}<extra></extra>",
    }
    named = {"x_title": style.plain(across), "y_title": style.plain(up)}
    axis = {"type": "category"}
    return go.Figure([trace], panels([""], columns=1, height=360, xaxis=axis, yaxis=axis, dark=dark, **named))


def knocked_out(
    table: pd.DataFrame, colours: Mapping[str, str], units: Mapping[str, str], model: str, *, dark: bool = False
) -> go.Figure:
    """Draw, a panel per category, its task's score over the share of its neurons that are off, and random controls.

    The `customdata` of the category's points is [model, None, category].

    Args:
        table: Columns category, group (the category, or random), proportion, mean, low and high (over draws).
        colours: The colour of each category.
        units: What each category's score is in.
        model: Whose neurons they are.
        dark: The reader's theme.
    """
    table, colours = style.plain_table(table), style.plain_keys(colours)
    units = {style.plain(name): style.plain(unit) for name, unit in units.items()}
    names, traces = list(dict.fromkeys(table["category"])), []
    own, control = "the category's neurons off", "as many random neurons off"
    for index, name in enumerate(names):
        here = table[table["category"] == name]
        for is_own in (False, True):
            rows = here[(here["group"] == name) == is_own].sort_values("proportion")
            x, colour = (100 * rows["proportion"]).tolist(), colours[name] if is_own else style.RANDOM
            if not is_own:
                traces.append(_band(index, x, rows["low"].tolist(), rows["high"].tolist(), colour))
            told = [f"{name} · {at:.0f} % off · {style.significant(v)}" for at, v in zip(x, rows["mean"], strict=True)]
            mark = style.PLAIN if is_own else style.Mark("dash", "circle-open", "")
            title = own if is_own else control
            line = line_trace(index, title, x, rows["mean"].tolist(), colour, told, in_legend=index == 0, mark=mark)
            behind = {"customdata": [[style.plain(model), None, name]] * len(x)} if is_own else {}
            traces.append(line | behind)
    layout = panels(
        [f"{name}, {units[name]}" for name in names],
        x_title="neurons of the category off, %",
        yaxis={"matches": None, "showticklabels": True},
        height=300,
        legend=[own, control],
        dark=dark,
    )
    return go.Figure(traces, layout)


def shares(table: pd.DataFrame, unit: str, colours: Mapping[str, str], *, dark: bool = False) -> go.Figure:
    """Draw bars per row: what each column of numbers says of it.

    Args:
        table: What each row is called, and columns of numbers.
        unit: What they are in.
        colours: The colour of each column.
        dark: The reader's theme.
    """
    table, colours, unit = style.plain_table(table), style.plain_keys(colours), style.plain(unit)
    first, *columns = table.columns
    traces = [
        {
            "type": "bar",
            "name": name,
            "x": table[first].tolist(),
            "y": table[name].tolist(),
            "marker": {"color": colours[name]},
            "hovertemplate": f"%{{x}}, {name}: %{{y:.1f}} {unit}<extra></extra>",
        }
        for name in columns
    ]
    layout = panels([""], columns=1, y_title=unit, height=320, legend=columns, dark=dark)
    layout["margin"] = {"t": legend_room(columns)}
    return go.Figure(traces, layout | {"barmode": "group"})


def _band(panel: int, x: list[float], low: list[float], high: list[float], colour: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x + x[::-1],
        "y": high + low[::-1],
        "fill": "toself",
        "fillcolor": style.translucent(colour, 0.18),
        "line": {"width": 0},
        "showlegend": False,
        "hoverinfo": "skip",
        "xaxis": f"x{panel + 1}",
        "yaxis": f"y{panel + 1}",
    }
