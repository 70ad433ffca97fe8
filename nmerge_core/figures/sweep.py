"""A search over a recipe's parameters: how it went, where good settings are, and which parameters matter."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from nmerge_core.figures import style
from nmerge_core.figures.panels import line_trace, numbered_axis, panels

SCALE = "Viridis"  # read by the colour-blind too
_CELLS = 14  # values of a parameter, above which its trials are points and no cells


def progress(trials: pd.DataFrame, objective: str, *, dark: bool = False) -> go.Figure:
    """Draw each trial's objective, in order, and the best so far; trials without one are left out.

    Here and below the `customdata` of a point is the number of its trial, the best one of a cell.
    """
    done = trials[trials[objective].notna()]
    told = [
        f"trial {number} · {style.significant(value)}"
        for number, value in zip(done["trial"], done[objective], strict=True)
    ]
    named, legend = style.plain(title_of(objective)), ["trial", "best so far"]
    across = numbered_axis(done["trial"])
    layout = panels([""], columns=1, x_title="trial", y_title=named, xaxis=across, legend=legend, dark=dark)
    points = line_trace(0, "trial", done["trial"], done[objective], style.RANDOM, told, in_legend=True)
    points |= {"mode": "markers", "marker": {"color": style.RANDOM, "size": 8}, "customdata": done["trial"].tolist()}
    best = line_trace(0, "best so far", done["trial"], done[objective].cummax(), style.MERGE, told, in_legend=True)
    return go.Figure([points, best | {"line": {"color": style.MERGE, "shape": "hv"}, "mode": "lines"}], layout)


def parallel(trials: pd.DataFrame, keys: Sequence[str], objective: str, *, dark: bool = False) -> go.Figure:
    """Draw a line a trial through its values and, last, its objective, which gives its colour; the best is thick."""
    done = trials[trials[objective].notna()].sort_values(objective)
    columns = [*keys, objective]
    axes = [_places(done[column]) for column in columns]
    names = [style.plain(title_of(column)) for column in columns]
    colours = sample_colorscale(SCALE, axes[-1][0])
    traces = []
    for row, (trial, colour) in enumerate(zip(done.to_dict("records"), colours, strict=True)):
        told = "<br>".join(f"{name}: {_said(trial[key])}" for name, key in zip(names, columns, strict=True))
        line = {"color": colour, "width": 4 if row == len(done) - 1 else 1.5}
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": list(range(len(columns))),
                "y": [places[row] for places, _ in axes],
                "line": line,
                "marker": {"color": colour, "size": 6},
                "name": f"trial {trial['trial']}",
                "text": [f"trial {trial['trial']}<br>{told}"] * len(columns),
                "hoverinfo": "text",
                "showlegend": False,
                "customdata": [trial["trial"]] * len(columns),
            }
        )
    across = {"tickvals": list(range(len(columns))), "ticktext": names, "showgrid": True}
    layout = panels([""], columns=1, height=360, xaxis=across, yaxis={"visible": False}, dark=dark)
    ground = {"bgcolor": style.background(dark), "borderpad": 1}  # lines run behind what is written
    ends = [
        {"x": place, "y": height, "text": text, "showarrow": False, "xanchor": "left", "xshift": 6} | ground
        for place, (_, marks) in enumerate(axes)
        for height, text in marks.items()
    ]
    return go.Figure(traces, layout | {"annotations": ends})


def _places(values: pd.Series) -> tuple[list[float], dict[float, str]]:
    """Return where values are between the lowest and the highest, in [0, 1], and what is written at which height."""
    if pd.api.types.is_numeric_dtype(values) and values.dtype != bool:
        low, high = float(values.min()), float(values.max())
        width = high - low
        marks = {0.0: _said(low), 1.0: _said(high)} if width else {0.5: _said(low)}
        return [(float(value) - low) / width if width else 0.5 for value in values], marks
    texts = [style.plain(text) for text in values.astype(str)]
    known = sorted(set(texts))
    heights = {text: place / max(1, len(known) - 1) for place, text in enumerate(known)}
    return [heights[text] for text in texts], {height: text for text, height in heights.items()}


def _said(value: Any) -> str:
    return style.significant(value) if isinstance(value, float) else style.plain(str(value))


def importance(found: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """Draw how much of the objective's differences each key makes (columns key, importance)."""
    names = [style.plain(title_of(key)) for key in found["key"]][::-1]
    shares = found["importance"].tolist()[::-1]
    share = "share of the differences in the objective"
    shares_axis = {"tickformat": ".0%", "tickformatstops": []}  # which stand before it
    layout = panels([""], columns=1, x_title=share, xaxis=shares_axis, height=80 + 34 * len(names), dark=dark)
    bar = {"type": "bar", "orientation": "h", "x": shares, "y": names, "marker": {"color": style.MERGE}}
    told = {"text": [style.percent(share) for share in shares], "hoverinfo": "text"}
    return go.Figure([bar | told], layout)


def heat(trials: pd.DataFrame, across: str, up: str, objective: str, *, dark: bool = False) -> go.Figure:
    """Draw the objective over two keys: the mean of each pair of values, or a point a trial where there are many."""
    done = style.plain_values(trials[trials[objective].notna()])
    axes: dict[str, Any] = {"x_title": style.plain(title_of(across)), "y_title": style.plain(title_of(up))}
    bar = {"title": {"text": style.plain(title_of(objective))}}
    if max(done[across].nunique(), done[up].nunique()) > _CELLS:
        layout = panels([""], columns=1, height=420, dark=dark, **axes)
        told = [f"trial {n} · {style.significant(v)}" for n, v in zip(done["trial"], done[objective], strict=True)]
        marker = {
            "color": done[objective].tolist(),
            "colorscale": SCALE,
            "showscale": True,
            "size": 11,
            "colorbar": bar,
        }
        points = {"type": "scatter", "mode": "markers", "marker": marker, "text": told, "hoverinfo": "text"}
        points |= {"customdata": done["trial"].tolist()}
        return go.Figure([points | {"x": done[across].tolist(), "y": done[up].tolist()}], layout)
    cells = done.pivot_table(index=up, columns=across, values=objective, aggfunc="mean")
    best = done.sort_values(objective).pivot_table(index=up, columns=across, values="trial", aggfunc="last")
    values = cells.to_numpy()
    cell = {
        "type": "heatmap",
        "x": [str(value) for value in cells.columns],
        "y": [str(value) for value in cells.index],
        "z": values.tolist(),
        "text": [["" if value != value else style.significant(value) for value in row] for row in values],
        "texttemplate": "%{text}",
        "colorscale": SCALE,
        "colorbar": bar,
        "customdata": best.to_numpy().tolist(),
        "hovertemplate": "%{x}, %{y}<br>%{text}<extra></extra>",
    }
    category = {"type": "category"}
    layout = panels([""], columns=1, height=420, xaxis=category, yaxis=category, dark=dark, **axes)
    return go.Figure([cell], layout)


def front(trials: pd.DataFrame, objectives: Sequence[str], *, dark: bool = False) -> go.Figure:
    """Draw trials by two objectives, and the front: those that no other trial betters in both."""
    first, second = objectives
    done = trials.dropna(subset=[first, second]).sort_values([first, second], ascending=False)
    best = done[done[second] > done[second].cummax().shift(fill_value=-math.inf)]
    titles = [style.plain(title_of(each)) for each in objectives]
    legend = ["trial", "front"]
    layout = panels([""], columns=1, height=420, legend=legend, x_title=titles[0], y_title=titles[1], dark=dark)
    traces = []
    for name, rows, colour in (("trial", done, style.RANDOM), ("front", best, style.MERGE)):
        told = [f"trial {number}" for number in rows["trial"]]
        trace = line_trace(0, name, rows[first], rows[second], colour, told, in_legend=True)
        drawn = {"mode": "markers" if name == "trial" else "lines+markers", "marker": {"color": colour, "size": 9}}
        traces.append(trace | drawn | {"customdata": rows["trial"].tolist()})
    return go.Figure(traces, layout)


def title_of(key: str) -> str:
    """What a column is called: `parameters.lambda_1` is λ1, `models[0].parameters.weight` weight of model 1.

    Those of steps are told likewise: `then[0].omega` is omega of step 1.
    """
    if "/" in key:  # a score
        return key.replace("/", ", ").replace("_", " ")
    if key == "models":
        return "fine-tunes"
    name = key.rpartition(".")[2].replace("lambda_", "λ").replace("lambda", "λ").replace("_", " ")
    for listed, of in (("models[", "model"), ("then[", "step")):
        if key.startswith(listed):
            return f"{name} of {of} {int(key[len(listed) : key.index(']')]) + 1}"
    if ".specific." in key:
        *category, last = key.partition(".specific.")[2].split(".")
        whose = f" of {category[0]}" if category else ""
        return f"{name} factor{whose}" if last in ("own", "foreign") else f"{name} neurons"
    return name
