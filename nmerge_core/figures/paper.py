"""A figure as it goes into a document: on a light ground whatever the reader's theme, in a size and a font size."""

import json
from typing import Any

import plotly.graph_objects as go

from nmerge_core.figures import style

FONT = "Arial, Helvetica, sans-serif"  # is where the figure is shown: an image cannot bring the app's own
FONT_SIZE = 13  # of the template, to which all others stand in proportion


def on_paper(
    figure: go.Figure, *, width: int | None = None, height: int | None = None, font: float = FONT_SIZE
) -> go.Figure:
    """Return the figure as it is drawn for the light theme.

    Args:
        figure: a figure of this package, of either theme.
        width: pixels; as wide as there is room by default.
        height: pixels; the figure's own by default.
        font: pixels of ordinary text; what is smaller or larger changes with it.
    """
    drawn = json.loads(figure.to_json(validate=False))
    template = style.template()
    template["layout"]["font"]["family"] = FONT
    drawn["layout"]["template"] = template
    drawn = _changed(drawn, font / FONT_SIZE)
    for name, size in (("width", width), ("height", height)):
        if size:
            drawn["layout"][name] = size
    return go.Figure(drawn)


def _changed(value: Any, scale: float, key: str = "", within: str = "") -> Any:
    """Return a part of a figure with the dark theme's own colours as the light one's, and fonts scaled."""
    if isinstance(value, dict):
        return {name: _changed(part, scale, name, key) for name, part in value.items()}
    if isinstance(value, list):
        return [_changed(part, scale, key, within) for part in value]
    if key.endswith(("color", "colorscale")):
        return next((each() for each in (style.base_colour, style.background) if each(dark=True) == value), value)
    if key == "size" and within.endswith("font"):
        return round(value * scale, 2)
    return value
