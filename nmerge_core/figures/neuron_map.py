"""All layers of a model at once: the share of each layer's neurons that each category has, as a heat map."""

import pandas as pd
import plotly.graph_objects as go

from nmerge_core.figures import style
from nmerge_core.figures.layer_map import layer_map


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
    frame = frame.assign(category=frame["category"].map(style.plain))
    counts = frame.set_index(["category", "layer"])
    layers, categories = ([*dict.fromkeys(frame[name])] for name in ("layer", "category"))
    models = [*counts.columns.drop("intersection")]
    model = "base" if label == "intersection" else style.plain(label)
    totals = counts.groupby("layer")[models[0]].sum()  # every model has as many
    shares = 100 * counts.div(totals, level="layer", axis=0)

    def told(category: str, layer: int) -> str:
        n, kept = counts.loc[(category, layer), [label, "intersection"]]
        of = f"{style.percent(n / totals[layer])} of the layer"
        named = f"layer {layer} · {n:,} {category} neurons"
        if label == "intersection":
            return f"{named} in every model · {of}"
        return f"{named} in {style.plain(label)} · {of} · {kept:,} kept in all models"

    return layer_map(
        categories,
        layers,
        value=lambda category, layer: shares.at[(category, layer), label],
        written=lambda category, layer: f"{shares.at[(category, layer), label]:.0f}",
        told=told,
        behind=lambda category, layer: [model, layer, category],
        colour=colour,
        unit="% of the<br>layer",
        scale={"zmin": 0, "zmax": float(shares[[label] if label == "intersection" else models].to_numpy().max()) or 1},
        dark=dark,
    )
