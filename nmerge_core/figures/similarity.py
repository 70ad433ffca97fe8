"""How little fine-tuning turns the neurons' weights, layer by layer (NeuronMerge, App. A.3 and Fig. 8)."""

import math
from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from nmerge_core.figures import style
from nmerge_core.figures.inheritance import FULL
from nmerge_core.figures.layer_map import layer_map
from nmerge_core.figures.panels import line_trace, numbered_axis, panels

MATRICES = {"gate": "gate (row)", "up": "up (row)", "down": "down (column)"}

MEASURES = {  # of interference: title, and what a cell says of it
    "shared": ("shared directions", "TSV-M's interference is {} times what unrelated directions would have"),
    "opposed": ("opposite signs", "{} of the weights that several fine-tunes changed have opposite signs"),
    "lost": ("lost when added up", "{} of all change is lost when it is added up"),
    "cosine": ("cosine", "the mean cosine of two fine-tunes' changes is {}"),
}
UNITS = {"shared": "times<br>chance", "opposed": "share", "lost": "share"}


def mean_cosine(summary: pd.DataFrame, colours: Mapping[str, str], *, dark: bool = False) -> go.Figure:
    """Draw the mean cosine of each layer's neurons, a panel per matrix and a line per fine-tune.

    A point's `customdata` is [model, layer, None], the neurons of all categories.

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
            line = line_trace(index, name, x, y, colour, told, in_legend=index == 0, mark=mark, marker=6)
            traces.append({**line, "customdata": [[str(model), int(layer), None] for layer in x]})
    layout = panels(
        [MATRICES[matrix] for matrix in found],
        x_title="layer",
        y_title="mean cosine with the base",
        xaxis=numbered_axis(list(summary["layer"])),
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


def interference(frame: pd.DataFrame, measure: str, *, dark: bool = False) -> go.Figure:
    """Draw where fine-tunes get in each other's way as a map, layers across and matrices down.

    Args:
        frame: Columns layer, matrix, interference, chance, opposed, lost, cosine (of `conflict.interference`).
        measure: One of `MEASURES`.
        dark: The reader's theme.
    """
    frame = style.plain_table(frame.assign(shared=frame["interference"] / frame["chance"]))
    says = MEASURES[measure][1]
    layers, matrices = sorted(frame["layer"].unique()), list(dict.fromkeys(frame["matrix"]))
    found = {(row["matrix"], row["layer"]): row[measure] for row in frame.to_dict("records")}
    write = style.percent if measure in ("opposed", "lost") else style.significant

    def value(matrix: str, layer: int) -> float | None:
        known = found.get((matrix, layer), math.nan)
        return None if math.isnan(known) else known

    def written(matrix: str, layer: int) -> str:
        return "–" if (known := value(matrix, layer)) is None else write(known)

    return layer_map(
        matrices,
        layers,
        value=value,
        written=written,
        told=lambda matrix, layer: f"layer {layer} · {matrix}<br>{says.format(written(matrix, layer))}",
        colour=FULL,
        unit=UNITS.get(measure, ""),
        dark=dark,
    )
