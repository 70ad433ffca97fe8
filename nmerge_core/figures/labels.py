"""The figure of labels: neurons by their category and by what a language model calls them (NeuronMerge Fig. 10)."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from nmerge_core.figures import style
from nmerge_core.figures.inheritance import FRAME, FULL, ROW


def agreement_matrix(counts: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """One cell per pair of category and label: its neurons; darker where they are more of the category's own.

    The `customdata` of a cell that has neurons is [category, label].

    Args:
        counts: Neurons, a row per category by frequency, a column per label; a last column for no answer.
        dark: The reader's theme.

    Source: NeuronMerge, Fig. 10.
    """
    counts = style.plain_table(counts.reset_index()).set_index("category")
    rows, columns = [str(name) for name in counts.index], [str(name) for name in counts.columns]
    cells = counts.to_numpy()
    totals = cells.sum(axis=1, keepdims=True)
    told = [
        [
            f"{cells[i, j]:,} of {totals[i, 0]:,} {row} neurons<br>are labelled: {column}"
            for j, column in enumerate(columns)
        ]
        for i, row in enumerate(rows)
    ]
    trace: dict[str, Any] = {
        "type": "heatmap",
        "x": columns,
        "y": rows,
        "z": (cells / totals.clip(1)).tolist(),
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, style.background(dark)], [1, FULL]],
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        "text": [[f"{number:,}" for number in row] for row in cells],
        "texttemplate": "%{text}",
        "hovertext": told,
        "hoverinfo": "text",
        "customdata": [
            [[row, column] if number else None for column, number in zip(columns, numbers, strict=True)]
            for row, numbers in zip(rows, cells, strict=True)
        ],
    }
    layout = {
        "template": style.template(dark),
        "height": FRAME + ROW * len(rows),
        "margin": {"t": 30},
        "xaxis": {"title": {"text": "label"}, "showgrid": False, "side": "bottom"},
        "yaxis": {
            "title": {"text": "category of its texts"},
            "autorange": "reversed",
            "showgrid": False,
            "ticklabelstandoff": 6,
        },
    }
    return go.Figure([trace], layout)
