"""Figures of neuron categories: per layer and model (NeuronMerge Figs. 3, 6), proportions (2a), over depth (9)."""

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go

from nmerge_core.figures import style
from nmerge_core.figures.panels import cell, layer_axis, panels
from nmerge_core.figures.style import INTERSECTION


def categories_by_layer(
    frame: pd.DataFrame, layers: Sequence[int], colours: Mapping[str, str], *, dark: bool = False
) -> go.Figure:
    """One panel per layer: for each category a bar per model and the purple bar of neurons all of several agree on.

    Args:
        frame: layer, category, a column of neuron counts per model, intersection; as `classification.compare` gives.
        layers: The layers to show, in this order.
        colours: A colour per model; models without a column in `frame` are passed over.
        dark: The reader's theme.

    Source: NeuronMerge, Figs. 3 and 6.
    """
    columns = 2 if len(layers) <= 4 else 3
    figure = panels([f"Layer {layer}" for layer in layers], columns=columns, y_title="neurons", dark=dark)
    bars = {label: colour for label, colour in colours.items() if label in frame}
    if len(bars) > 1:
        bars["intersection"] = INTERSECTION
    traces, cells = [], []
    for i, layer in enumerate(layers):
        here = frame[frame["layer"] == layer]
        for label, colour in bars.items():
            bar = {
                "type": "bar",
                "x": here["category"].tolist(),
                "y": here[label].tolist(),
                "name": "same in all models" if label == "intersection" else label,
                "marker": {"color": colour},
                "legendgroup": label,
                "showlegend": i == 0,
                "hovertext": _facts(here, label),
                "hoverinfo": "text",
            }
            traces.append(bar)
            cells.append(cell(i, min(columns, len(layers))))
    figure.add_traces(traces, [c["row"] for c in cells], [c["col"] for c in cells])
    figure.update_layout(barmode="group")
    figure.update_xaxes(tickfont={"size": 11})
    figure.update_yaxes(tickformat=",")
    return figure


def _facts(here: pd.DataFrame, label: str) -> list[str]:
    """What the hover says of each bar of one layer: “layer 13 · 2,114 code neurons in base · 11.2 % · …”."""
    in_layer = here[label].sum()
    facts = []
    for row in here.to_dict("records"):
        n, kept = row[label], row["intersection"]
        if label == "intersection":
            said = f"{n:,} neurons are {row['category']} in every model"
        else:
            share = style.percent(n / in_layer) if in_layer else "none"
            said = f"{n:,} {row['category']} neurons in {label} · {share} · {kept:,} kept in all models"
        facts.append(f"layer {row['layer']} · {said}")
    return facts


def proportions(
    frame: pd.DataFrame, labels: Sequence[str], colours: Mapping[str, str], *, dark: bool = False
) -> go.Figure:
    """One bar per model, cut into the shares of its neurons in each category over all layers.

    Args:
        frame: layer, category and a column of neuron counts per model.
        labels: The models to show, top to bottom.
        colours: A colour per category.
        dark: The reader's theme.

    Source: NeuronMerge, Fig. 2a.
    """
    counts = frame.groupby("category", sort=False)[list(labels)].sum()
    shares = counts / counts.sum()
    figure = go.Figure()
    for category, colour in colours.items():
        facts = [
            f"{label} · {counts.at[category, label]:,} {category} neurons · {style.percent(shares.at[category, label])}"
            for label in labels
        ]
        figure.add_bar(
            y=list(labels),
            x=100 * shares.loc[category, list(labels)],
            orientation="h",
            name=category,
            marker_color=colour,
            text=[style.percent(share) for share in shares.loc[category, list(labels)]],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            insidetextfont={"color": style.ink_on(colour)},
            hovertext=facts,
            hoverinfo="text",
        )
    figure.update_layout(
        template=style.template(dark),
        barmode="stack",
        legend_traceorder="normal",
        uniformtext={"mode": "hide", "minsize": 11},
        height=90 + 46 * len(labels),
    )
    figure.update_xaxes(title_text="share of neurons (%)", range=[0, 100], dtick=25, showgrid=False)
    figure.update_yaxes(autorange="reversed")
    return figure


def over_depth(frame: pd.DataFrame, label: str, colours: Mapping[str, str], *, dark: bool = False) -> go.Figure:
    """The number of neurons of each category in each layer of one model, one line per category.

    Args:
        frame: layer, category and a column of neuron counts called `label`.
        label: The model to show.
        colours: A colour per category.
        dark: The reader's theme.

    Source: NeuronMerge, Fig. 9.
    """
    per_layer = frame.groupby("layer")[label].sum()
    figure = go.Figure()
    for category, colour in colours.items():
        line = frame[frame["category"] == category]
        figure.add_scatter(
            x=line["layer"],
            y=line[label],
            mode="lines+markers",
            name=category,
            line={"color": colour, "width": 2},
            marker={"size": 6},
            hovertext=[
                f"layer {layer} · {n:,} {category} neurons in {label} · {style.percent(n / per_layer[layer])}"
                for layer, n in zip(line["layer"], line[label], strict=True)
            ],
            hoverinfo="text",
        )
    figure.update_layout(template=style.template(dark), height=300)
    figure.update_xaxes(title_text="layer", showgrid=False)
    layer_axis(figure, list(per_layer.index))
    figure.update_yaxes(title_text="neurons", rangemode="tozero", tickformat=",")
    return figure
