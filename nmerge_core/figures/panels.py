"""Small multiples: one panel per thing, common axes, one legend above them all."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nmerge_core.figures import style

HEIGHT = 250  # pixels of one row of panels, its title and axis included
LEGEND = 34  # pixels of a legend of one line above the first row
LEGEND_LINE = 19  # pixels of each further line
LEGEND_WIDTH = 1000  # pixels that the lines of a legend are counted for; the page corrects it to what there is
_ENTRY, _CHARACTER = 50, 6.5  # pixels of an entry's sign and gaps, and of a character of its name
BETWEEN_COLUMNS = 0.035  # of the figure's width
TITLE = 30  # pixels of a panel's title
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
    legend: Sequence[str] = (),
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
        legend: The names in the legend.
        dark: The reader's theme.
    """
    room = legend_room(legend)
    columns = max(1, min(columns, len(titles)))
    rows = max(1, -(-len(titles) // columns))
    across, down = BETWEEN_COLUMNS, min(0.3, BETWEEN_ROWS / (rows * height))
    wide, high = (1 - across * (columns - 1)) / columns, (1 - down * (rows - 1)) / rows
    layout: dict[str, Any] = {
        "template": style.template(dark),
        "height": rows * height + room,
        "margin": {"t": room + TITLE},
        "annotations": [],
        # What the page lays out anew where it is narrower, or the legend higher, than was counted with here.
        "meta": {"legend": room, "panels": len(titles), "columns": columns, "row": height},
    }
    for index, title in enumerate(titles):
        row, column = divmod(index, columns)
        left, bottom = column * (wide + across), (rows - 1 - row) * (high + down)
        number = index + 1
        layout[f"xaxis{number}"] = {
            "anchor": f"y{number}",
            "domain": [left, min(1, left + wide)],
            "title": {"text": x_title if index + columns >= len(titles) else ""},  # the lowest panel of each column
            "tickformatstops": style.TICKS,
            **(xaxis or {}),
        }
        layout[f"yaxis{number}"] = {
            "anchor": f"x{number}",
            "domain": [bottom, min(1, bottom + high)],
            "title": {"text": y_title if column == 0 else ""},
            "showticklabels": column == 0,
            "tickformatstops": style.TICKS,
            **({} if index == 0 else {"matches": "y"}),
            **(yaxis or {}),
        }
        place = {"x": left, "xanchor": "left", "y": min(1, bottom + high), "yanchor": "bottom"}
        paper = {"xref": "paper", "yref": "paper", "showarrow": False}
        layout["annotations"].append({"text": f"<b>{title}</b>", "font": {"size": 13}, **place, **paper})
    return layout


def legend_room(names: Sequence[str], width: int = LEGEND_WIDTH) -> int:
    """Pixels that a legend of these names needs above a figure of some width; that of one line at least."""
    lines, used = 1, 0.0
    for name in names:
        needed = _ENTRY + _CHARACTER * len(name)
        if used and used + needed > width:
            lines, used = lines + 1, 0.0
        used += needed
    return LEGEND + LEGEND_LINE * (lines - 1)


def line_trace(
    panel: int,
    name: str,
    x: Any,
    y: Any,
    colour: str,
    hovertext: list[str],
    *,
    in_legend: bool,
    mark: style.Mark = style.PLAIN,
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
        "line": {"color": colour, "dash": mark.dash, "width": 2},
        "marker": {"size": marker, "symbol": mark.symbol},
        "hovertext": hovertext,
        "hoverinfo": "text",
        **cell(panel),
    }


def cell(index: int) -> dict[str, str]:
    """The axes of a trace that belongs into panel `index`."""
    return {"xaxis": f"x{index + 1}", "yaxis": f"y{index + 1}"}


def numbered_axis(numbers: Iterable[int]) -> dict[str, Any]:
    """An axis with layers, or trials, marked on it: each of them where there are few, whole numbers in any case."""
    few = len(set(numbers)) <= 12
    return {"tickformat": ",d", **({"dtick": 1} if few else {"nticks": 8})}
