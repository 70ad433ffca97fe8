"""Which models no other beats in both of two columns, and how even each is over all of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from nmerge_core.figures import style
from nmerge_core.figures.leaderboard import less, written
from nmerge_core.figures.panels import legend_room, panels

_HEIGHT = 460  # pixels of either figure
_WIDE, _LETTER, _LINE = 900, 6.6, 17  # pixels that labels are placed in: of the figure, of a letter, of a line
_PLACES = tuple(
    f"{upright} {aside}"
    for upright, aside in (
        ("top", "center"), ("bottom", "center"), ("middle", "right"), ("middle", "left"),
        ("top", "right"), ("bottom", "right"), ("top", "left"), ("bottom", "left"),
    )
)  # fmt: skip


def front(table: pd.DataFrame, across: str, up: str) -> list[str]:
    """Return the models that no other is as good as in both columns and better than in one, from left to right.

    Models without a number in both are left out; of equal ones all are kept.
    """
    points = table[[across, up]].dropna()
    good = pd.DataFrame({name: points[name] * (-1 if less(name) else 1) for name in points})
    beaten = [((good >= own).all(axis=1) & (good > own).any(axis=1)).any() for _, own in good.iterrows()]
    kept: list[str] = points.loc[[not each for each in beaten]].sort_values(across, kind="stable").index.tolist()
    return kept


def trade_off(
    table: pd.DataFrame, across: str, up: str, colours: Mapping[str, str], *, dark: bool = False
) -> go.Figure:
    """Draw models by two columns of a leaderboard, each with its name, and the front, a step at each of its models.

    Args:
        table: of `leaderboard`.
        across: the column that goes from left to right.
        up: the column that goes upwards.
        colours: the colour of each model.
        dark: the reader's theme.
    """
    points, best, texts = table[[across, up]].dropna(), front(table, across, up), written(table)
    short = style.plain_keys({name: name for name in points.index})
    names = dict(zip(points.index, style.short_names(short).values(), strict=True))
    marks = style.marks({name: colours[name] for name in points.index})
    places = _label_places(points, [names[name] for name in points.index])
    traces: list[dict[str, Any]] = [_steps(points.loc[best], across, up, dark)]
    for (name, row), place in zip(points.iterrows(), places, strict=True):
        told = f"{names[name]}{' · on the front' if name in best else ''}"
        for column in (across, up):
            told += f"<br>{style.plain(column)}: {texts.at[name, column]}"
        traces.append(
            {
                "type": "scatter",
                "x": [row[across]],
                "y": [row[up]],
                "mode": "markers+text",
                "marker": {"color": colours[name], "symbol": marks[name].symbol, "size": 12 if name in best else 8},
                "text": [f"<b>{names[name]}</b>" if name in best else names[name]],
                "textposition": place,
                "name": names[name],
                "hovertext": [told],
                "hoverinfo": "text",
                "showlegend": False,
                "cliponaxis": False,
            }
        )
    layout = panels(
        [""], columns=1, x_title=_towards(across, "←", "→"), y_title=_towards(up, "↓", "↑"), height=_HEIGHT, dark=dark
    )
    for axis, column in (("xaxis1", across), ("yaxis1", up)):
        low, high = points[column].min(), points[column].max()
        room = 0.12 * (high - low) or 1.0
        layout[axis] |= {"range": [low - room, high + room]}
    return go.Figure(traces, layout)


def _steps(best: pd.DataFrame, across: str, up: str, dark: bool) -> dict[str, Any]:
    """Return the line that parts what a model of the front is at least as good as from all else."""
    line = {"color": style.ink(dark), "width": 1.5, "dash": "dot", "shape": "hv" if less(across) else "vh"}
    found = {"type": "scatter", "x": best[across].tolist(), "y": best[up].tolist(), "mode": "lines", "line": line}
    return found | {"name": "Pareto front", "hoverinfo": "skip", "showlegend": True}


def _towards(column: str, low: str, high: str) -> str:
    return f"{style.plain(column)}   ({low if less(column) else high} better)"


def _label_places(points: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Return where each name stands beside its point: where it covers the least of names and points before it."""
    spans = [(points[name].min(), points[name].max() - points[name].min() or 1.0) for name in points]
    size = (0.8 * _WIDE, -0.8 * _HEIGHT)
    pixels = [
        [scale * (value - low) / width for value, (low, width), scale in zip(row, spans, size, strict=True)]
        for row in points.to_numpy()
    ]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in pixels]
    found = []
    for (x, y), name in zip(pixels, names, strict=True):
        boxes = {place: _box(x, y, _LETTER * len(name), place) for place in _PLACES}
        place = min(_PLACES, key=lambda each: sum(_overlap(boxes[each], other) for other in taken))
        taken.append(boxes[place])
        found.append(place)
    return found


_Box = tuple[float, float, float, float]  # left, top, right, bottom


def _box(x: float, y: float, wide: float, place: str) -> _Box:
    upright, aside = place.split()
    left = x + {"left": -wide - 7, "center": -wide / 2, "right": 7}[aside]
    top = y + {"top": -_LINE - 7, "middle": -_LINE / 2, "bottom": 7}[upright]
    return left, top, left + wide, top + _LINE


def _overlap(one: _Box, other: _Box) -> float:
    across, down = (min(one[end], other[end]) - max(one[end - 2], other[end - 2]) for end in (2, 3))
    return max(0.0, across) * max(0.0, down)


def radar(table: pd.DataFrame, colours: Mapping[str, str], *, dark: bool = False) -> go.Figure:
    """Draw models over the columns of a leaderboard, each number as a share of the best one of its column.

    Of a column of which less is better that is the best number as a share of the model's.

    Args:
        table: the columns of tasks of a leaderboard, of positive numbers.
        colours: the colour of each model.
        dark: the reader's theme.
    """
    shares = pd.DataFrame(
        {name: table[name].min() / table[name] if less(name) else table[name] / table[name].max() for name in table}
    ).fillna(1.0)  # where all are 0, all are the best
    texts, axes = written(table), {name: style.plain(name) for name in table}
    names = dict(zip(table.index, style.short_names(map(style.plain, table.index)).values(), strict=True))
    marks = style.marks({name: colours[name] for name in table.index})
    traces = [
        {
            "type": "scatterpolar",
            "r": [*(100 * row), 100 * row.iloc[0]],
            "theta": [axes[own] for own in [*table, table.columns[0]]],
            "mode": "lines+markers",
            "line": {"color": colours[name], "dash": marks[name].dash, "width": 2},
            "marker": {"symbol": marks[name].symbol, "size": 6},
            "name": names[name],
            "hovertext": [f"{names[name]}<br>{axes[own]}: {texts.at[name, own]}" for own in [*table, table.columns[0]]],
            "hoverinfo": "text",
        }
        for name, row in shares.iterrows()
    ]
    layout = panels([""], columns=1, height=_HEIGHT, legend=list(names.values()), dark=dark)
    grid = layout["template"]["layout"]["xaxis"]["gridcolor"]
    polar = {
        "bgcolor": style.background(dark),
        "radialaxis": {"range": [0, 105], "ticksuffix": " %", "gridcolor": grid, "angle": 90, "tickangle": 90},
        "angularaxis": {"gridcolor": grid, "linecolor": grid, "rotation": 90, "direction": "clockwise"},
    }
    kept = {name: value for name, value in layout.items() if not name.startswith(("xaxis", "yaxis", "meta"))}
    margin = {"t": legend_room(list(names.values())) + 30, "b": 40, "l": 190, "r": 190}
    return go.Figure(traces, kept | {"polar": polar, "margin": margin})
