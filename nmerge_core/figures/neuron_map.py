"""All layers of a model at once: the share of each layer's neurons that each category has, as a heat map."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from nmerge_core.figures import style
from nmerge_core.figures.panels import numbered_axis

ROW, FRAME = 34, 96  # pixels of a category in the heat map, and of what is around all
WRITTEN = 12  # layers up to which the heat map's cells hold their numbers
GAPS = 40  # layers up to which they have room


def heat_map(frame: pd.DataFrame, label: str, colour: str, *, dark: bool = False) -> go.Figure:
    """The share of each layer's neurons that each category has, layers across and categories down, of one model.

    A cell's `customdata` is [model, layer, category], the base's where it is of all models. The scale ends at the
    largest share of any model: models compare. That of the neurons that are the same in all models has an end of its
    own.

    Args:
        frame: layer, category, a column of neuron counts per model, intersection; as `classification.compare` gives.
        label: The model to show, or "intersection", the neurons that are the same in all models.
        colour: What the scale ends in.
        dark: The reader's theme.
    """
    counts = frame.set_index(["category", "layer"])
    layers, categories = ([*dict.fromkeys(frame[name])] for name in ("layer", "category"))
    models = [*counts.columns.drop("intersection")]
    model = "base" if label == "intersection" else style.plain(label)
    totals = counts.groupby("layer")[models[0]].sum()  # every model has as many
    shares = 100 * counts.div(totals, level="layer", axis=0)

    def told(category: str, layer: int) -> str:
        n, kept = counts.loc[(category, layer), [label, "intersection"]]
        of = f"{style.percent(n / totals[layer])} of the layer"
        named = f"layer {layer} · {n:,} {style.plain(category)} neurons"
        if label == "intersection":
            return f"{named} in every model · {of}"
        return f"{named} in {style.plain(label)} · {of} · {kept:,} kept in all models"

    def grid(value: Callable[[str, int], Any]) -> list[list[Any]]:
        return [[value(category, layer) for layer in layers] for category in categories]

    cells = {
        "type": "heatmap",
        "x": layers,
        "y": [style.plain(category) for category in categories],
        "z": grid(lambda category, layer: shares.at[(category, layer), label]),
        "customdata": grid(lambda category, layer: [model, layer, style.plain(category)]),
        "text": grid(lambda c, layer: f"{shares.at[(c, layer), label]:.0f}" if len(layers) <= WRITTEN else ""),
        "texttemplate": "%{text}",
        "hovertext": grid(told),
        "hoverinfo": "text",
        "zmin": 0,
        "zmax": float(shares[[label] if label == "intersection" else models].to_numpy().max()) or 1.0,
        "colorscale": [[0, style.background(dark)], [1, colour]],
        "colorbar": {"title": {"text": "% of the<br>layer", "font": {"size": 13}}, "thickness": 14},
        "xgap": 1 if len(layers) <= GAPS else 0,
        "ygap": 1,
    }
    layout = {
        "template": style.template(dark),
        "height": FRAME + ROW * len(categories),
        "margin": {"t": 10},
        "xaxis": {"title": {"text": "layer"}, "showgrid": False, "zeroline": False, **numbered_axis(layers)},
        "yaxis": {"autorange": "reversed", "showgrid": False, "ticklabelstandoff": 6},
    }
    return go.Figure(cells, layout)
