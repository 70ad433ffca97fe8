"""Small multiples: one panel per thing, common axes, one legend above them all."""

from collections.abc import Mapping, Sequence
from typing import Any

from nmerge_core.figures import style

HEIGHT = 250  # pixels of one row of panels, its title and axis included
LEGEND = 34  # pixels of the legend above the first row
BETWEEN_COLUMNS = 0.035  # of the figure's width
BETWEEN_ROWS = 64  # pixels, for an axis and the next panel's title


def panels(
    titles: Sequence[str],
    *,
    columns: int = 3,
    x_title: str = "",
    y_title: str = "",
    xaxis: Mapping[str, Any] | None = None,
    yaxis: Mapping[str, Any] | None = None,
    height: int = HEIGHT,
    dark: bool = False,
) -> dict[str, Any]:
    """The layout of a grid of titled panels with one vertical scale, filled row by row by traces with `cell`'s axes.

    A dictionary, as plotly's figures take a tenth of the time to be made at once than to be changed.

    Args:
        titles: One per panel.
        columns: The most panels beside each other.
        x_title: The axis under the lowest row.
        y_title: The axis left of the first column.
        xaxis: What else every horizontal axis has.
        yaxis: What else every vertical axis has.
        height: Pixels of one row.
        dark: The reader's theme.
    """
    columns = max(1, min(columns, len(titles)))
    rows = max(1, -(-len(titles) // columns))
    across, down = BETWEEN_COLUMNS, min(0.3, BETWEEN_ROWS / (rows * height))
    wide, high = (1 - across * (columns - 1)) / columns, (1 - down * (rows - 1)) / rows
    layout: dict[str, Any] = {
        "template": style.template(dark),
        "height": rows * height + LEGEND,
        "margin": {"t": LEGEND + 30},
        "legend": {"yref": "container", "y": 1, "yanchor": "top"},
        "annotations": [],
    }
    for index, title in enumerate(titles):
        row, column = divmod(index, columns)
        left, bottom = column * (wide + across), (rows - 1 - row) * (high + down)
        number = index + 1
        layout[f"xaxis{number}"] = {
            "anchor": f"y{number}",
            "domain": [left, min(1, left + wide)],
            "title": {"text": x_title if index + columns >= len(titles) else ""},  # the lowest panel of each column
            **(xaxis or {}),
        }
        layout[f"yaxis{number}"] = {
            "anchor": f"x{number}",
            "domain": [bottom, min(1, bottom + high)],
            "title": {"text": y_title if column == 0 else ""},
            "showticklabels": column == 0,
            **({} if index == 0 else {"matches": "y"}),
            **(yaxis or {}),
        }
        place = {"x": left, "xanchor": "left", "y": min(1, bottom + high), "yanchor": "bottom"}
        paper = {"xref": "paper", "yref": "paper", "showarrow": False}
        layout["annotations"].append({"text": f"<b>{title}</b>", "font": {"size": 13}, **place, **paper})
    return layout


def line_trace(
    panel: int,
    name: str,
    x: Any,
    y: Any,
    colour: str,
    hovertext: list[str],
    *,
    in_legend: bool,
    dash: str = "solid",
    marker: int = 5,
) -> dict[str, Any]:
    """The trace of a line with markers (`marker` pixels) in a panel; lines of one name are one entry of the legend."""
    return {
        "type": "scatter",
        "x": x,
        "y": y,
        "name": name,
        "legendgroup": name,
        "showlegend": in_legend,
        "mode": "lines+markers",
        "line": {"color": colour, "dash": dash, "width": 2},
        "marker": {"size": marker},
        "hovertext": hovertext,
        "hoverinfo": "text",
        **cell(panel),
    }


def cell(index: int) -> dict[str, str]:
    """The axes of a trace that belongs into panel `index`."""
    return {"xaxis": f"x{index + 1}", "yaxis": f"y{index + 1}"}


def layer_axis(layers: Sequence[int]) -> dict[str, Any]:
    """An axis with layers marked on it: each of them where there are few, whole numbers in any case."""
    few = len(set(layers)) <= 12
    return {"tickformat": ",d", **({"dtick": 1} if few else {"nticks": 8})}
