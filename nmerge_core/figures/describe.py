"""What a figure shows, in words: for readers who do not see it, and as the title of its file."""

import html
import re
from collections.abc import Iterable
from typing import Any

import plotly.graph_objects as go

KINDS = {"bar": "Bar chart", "scatter": "Line chart", "heatmap": "Heat map"}
LISTED = 12  # panels or series that are named


def describe(figure: go.Figure) -> str:
    """Say what kind of figure it is, what is on its axes, and which panels and series it has."""
    layout, traces = figure.to_plotly_json()["layout"], figure.to_plotly_json()["data"]
    kind = next((KINDS[trace["type"]] for trace in traces if trace.get("type") in KINDS), "Chart")
    axes = [_axis_title(layout, letter) for letter in "yx"]
    over = " over ".join(title for title in axes if title)
    panels = [_plain(each.get("text", "")) for each in layout.get("annotations", ())]
    series = list(dict.fromkeys(trace.get("name") for trace in traces if trace.get("showlegend") is not False))
    return "; ".join(
        [
            f"{kind}: {over}" if over else kind,
            *_named("panel", filter(None, panels)),
            *_named("series", map(_plain, filter(None, series))),
        ]
    )


def _axis_title(layout: dict[str, Any], letter: str) -> str:
    axes = [axis for name, axis in layout.items() if re.fullmatch(rf"{letter}axis\d*", name)]
    return next((_plain(text) for axis in axes if (text := axis.get("title", {}).get("text"))), "")


def _named(what: str, names: Iterable[str]) -> list[str]:
    listed = list(names)
    if not listed:
        return []
    more = f" and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    plural = what if what.endswith("s") or len(listed) == 1 else f"{what}s"
    return [f"{plural}: {', '.join(listed[:LISTED])}{more}"]


def _plain(text: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", " ", text)).strip()
