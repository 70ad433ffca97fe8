"""How strong a neuron is on all texts, by their categories."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from nmerge_core.figures import style
from nmerge_core.figures.panels import cell, panels

BINS = 40


def scores_by_category(
    scores: NDArray[np.floating],
    categories: Sequence[str],
    colours: Mapping[str, str],
    marked: Mapping[str, float] | None = None,
    *,
    title: str = "",
    dark: bool = False,
) -> go.Figure:
    """Draw how many texts of each category have which score of a neuron, bars on each other, from 0 on.

    Args:
        scores: (exemplars,) the largest |φ| on each text.
        categories: the category of each.
        colours: the colour of each category, in the order in which bars stand on each other.
        marked: scores that a line marks, by what they are called, as the reader's own text.
        title: what stands above it, as the model's name.
        dark: the reader's theme.
    """
    marks = marked or {}
    end = max([float(scores.max()), *marks.values()]) or 1.0
    edges = np.linspace(0, end, BINS + 1)
    of = np.array(categories)
    traces: list[dict[str, Any]] = []
    for category, colour in colours.items():
        counts, _ = np.histogram(scores[of == category], edges)
        told = [
            f"{style.plain(category)}<br>{style.counted(int(count), 'text')} with a score from "
            f"{style.significant(low)} to {style.significant(high)}"
            for count, low, high in zip(counts, edges, edges[1:], strict=False)
        ]
        traces.append(
            {
                "type": "bar",
                "name": style.plain(category),
                "x": ((edges[1:] + edges[:-1]) / 2).tolist(),
                "y": counts.tolist(),
                "width": float(edges[1]),
                "marker": {"color": colour},
                "customdata": told,
                "hovertemplate": "%{customdata}<extra></extra>",
            }
        )
    top = max(map(sum, zip(*(trace["y"] for trace in traces), strict=True)))
    for name, value in marks.items():
        line = {"color": style.ink(dark), "width": 2, "dash": "dot"}
        hover = f"{style.plain(name)}: score {style.significant(value)}<extra></extra>"
        mark = {"x": [value, value], "y": [0, top], "name": style.plain(name), "line": line, "hovertemplate": hover}
        traces.append({"type": "scatter", "mode": "lines", **mark})
    layout = panels(
        [title],
        x_title="score: largest |φ| on a text",
        y_title="texts",
        xaxis={"range": [0, end * 1.02]},
        yaxis={"rangemode": "tozero"},
        height=240,
        legend=[trace["name"] for trace in traces],
        dark=dark,
    )
    return go.Figure([trace | cell(0) for trace in traces], layout | {"barmode": "stack"})
