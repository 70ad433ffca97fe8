"""How little fine-tuning turns the neurons' weights, layer by layer (NeuronMerge, App. A.3 and Fig. 8)."""

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from nmerge_core.figures import style
from nmerge_core.figures.panels import layer_axis, line_trace, panels

MATRICES = {"gate": "gate (row)", "up": "up (row)", "down": "down (column)"}


def mean_cosine(summary: pd.DataFrame, colours: Mapping[str, str], *, dark: bool = False) -> go.Figure:
    """Draw the mean cosine of each layer's neurons, a panel per matrix and a line per fine-tune.

    Args:
        summary: Columns model, layer, matrix, neurons, mean, min, p01, p50, zero (of `similarity.cosine`).
        colours: The colour of each model.
        dark: The reader's theme.
    """
    summary, colours = style.plain_table(summary), style.plain_keys(colours)
    found = [matrix for matrix in MATRICES if (summary["matrix"] == matrix).any()]  # not every MLP has a gate
    names, marks = style.short_names(dict.fromkeys(summary["model"])), style.marks(colours)
    traces = []
    for index, matrix in enumerate(found):
        for model, rows in summary[summary["matrix"] == matrix].groupby("model", sort=False):
            rows = rows.sort_values("layer")
            told = [_fact(row) for row in rows.to_dict("records")]
            x, y, colour = rows["layer"], rows["mean"], colours[str(model)]
            name, mark = names[str(model)], marks[str(model)]
            traces.append(line_trace(index, name, x, y, colour, told, in_legend=index == 0, mark=mark, marker=6))
    layout = panels(
        [MATRICES[matrix] for matrix in found],
        x_title="layer",
        y_title="mean cosine with the base",
        xaxis=layer_axis(list(summary["layer"])),
        yaxis={"tickformat": ".5~f"},
        height=340,
        legend=list(names.values()),
        dark=dark,
    )
    return go.Figure(traces, layout)


def _fact(row: Mapping[str, float]) -> str:
    zero = f"<br>{style.count(row['zero'])} zero vectors left out" if row["zero"] else ""
    return (
        f"layer {row['layer']} · {row['matrix']} · {row['model']} · {style.count(row['neurons'])} neurons<br>"
        f"mean cosine {row['mean']:.5f} · median {row['p50']:.5f}<br>"
        f"1 in 100 below {row['p01']:.5f} · lowest {row['min']:.5f}{zero}"
    )
