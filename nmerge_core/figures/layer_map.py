"""The heat map that figures of all layers at once share: layers across, what they are told of down."""

from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from nmerge_core.figures import style
from nmerge_core.figures.panels import numbered_axis

WRITTEN = 12  # layers up to which cells hold their numbers
_GAPS = 40  # layers up to which there is room between cells
_ROW, _FRAME = 34, 96  # pixels of a row, and of what is around all


def layer_map(
    rows: Sequence[str],
    layers: Sequence[int],
    *,
    value: Callable[[str, int], float | None],
    written: Callable[[str, int], str],
    told: Callable[[str, int], str],
    behind: Callable[[str, int], list[Any]] | None = None,
    colour: str,
    unit: str,
    scale: dict[str, Any] | None = None,
    dark: bool = False,
) -> go.Figure:
    """Draw a cell for each row and layer, from the background's colour to `colour`.

    Args:
        rows: What each row is of, from the top.
        layers: The layers, in order.
        value: What colours the cell of a row and a layer; None leaves it empty.
        written: What stands in it, where the layers are few enough (`WRITTEN`).
        told: What it says under the pointer.
        behind: Its `customdata`.
        colour: What the scale ends in.
        unit: What stands beside the scale.
        scale: More of Plotly's for the scale: its ends, or the format of its numbers under "colorbar".
        dark: The reader's theme.
    """

    def grid(of: Callable[[str, int], Any]) -> list[list[Any]]:
        return [[of(row, layer) for layer in layers] for row in rows]

    ends = dict(scale or {})
    cells = {
        "type": "heatmap",
        "x": list(layers),
        "y": list(rows),
        "z": grid(value),
        "text": grid(written if len(layers) <= WRITTEN else lambda row, layer: ""),
        "texttemplate": "%{text}",
        "hovertext": grid(told),
        "hoverinfo": "text",
        "hoverongaps": False,
        "colorscale": [[0, style.background(dark)], [1, colour]],
        "colorbar": {"title": {"text": unit, "font": {"size": 13}}, "thickness": 14, **ends.pop("colorbar", {})},
        "xgap": 1 if len(layers) <= _GAPS else 0,
        "ygap": 1,
        **ends,
        **({"customdata": grid(behind)} if behind else {}),
    }
    layout = {
        "template": style.template(dark),
        "height": _FRAME + _ROW * len(rows),
        "margin": {"t": 10},
        "xaxis": {"title": {"text": "layer"}, "showgrid": False, "zeroline": False, **numbered_axis(layers)},
        "yaxis": {"autorange": "reversed", "showgrid": False, "ticklabelstandoff": 6},
    }
    return go.Figure(cells, layout)
