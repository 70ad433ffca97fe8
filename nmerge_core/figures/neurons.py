"""Figures of neuron categories: per layer and model (NeuronMerge Figs. 3, 6), proportions (2a), over depth (9)."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from nmerge_core.figures import style
from nmerge_core.figures.panels import cell, legend_room, numbered_axis, panels
from nmerge_core.figures.style import INTERSECTION

HALF = 520  # pixels of a figure that stands beside another
CROWDED = 40  # bars of a panel, from which on it has a row to itself
_PALE = 0.35  # opacity of neurons whose category is unsure


def categories_by_layer(
    frame: pd.DataFrame,
    layers: Sequence[int],
    colours: Mapping[str, str],
    sure: pd.DataFrame | None = None,
    *,
    dark: bool = False,
) -> go.Figure:
    """One panel per layer: for each category a bar per model and the purple bar of neurons all of several agree on.

    Where `sure` is given the rest of each bar, of neurons whose category is unsure, is pale. A bar's `customdata` is
    [model, layer, category], the base's where it is of all models.

    Args:
        frame: layer, category, a column of neuron counts per model, intersection; as `classification.compare` gives.
        layers: The layers to show, in this order.
        colours: A colour per model; models without a column in `frame` are passed over.
        sure: As `frame`, its rows in the same order, of those neurons alone whose category is sure.
        dark: The reader's theme.

    Source: NeuronMerge, Figs. 3 and 6.
    """
    frame, colours = style.plain_table(frame), style.plain_keys(colours)
    solid = frame if sure is None else style.plain_table(sure)
    bars = {label: colour for label, colour in colours.items() if label in frame}
    if len(bars) > 1:
        bars["intersection"] = INTERSECTION
    marks, names = style.marks(bars), style.short_names(bars) | {"intersection": "same in all models"}
    traces = []
    for i, layer in enumerate(layers):
        here, own = (each[each["layer"] == layer].to_dict("list") for each in (frame, solid))
        for label, colour in bars.items():
            bar = {
                "type": "bar",
                "x": here["category"],
                "y": own[label],
                "name": names[label],
                "marker": {"color": colour, "pattern": {"shape": marks[label].pattern}},
                "legendgroup": label,
                "offsetgroup": label,
                "showlegend": i == 0,
                "hovertext": _facts(here, label, None if sure is None else own[label]),
                "hoverinfo": "text",
                "customdata": [
                    ["base" if label == "intersection" else label, layer, each] for each in here["category"]
                ],
                **cell(i),
            }
            traces.append(bar)
            if sure is not None:
                rest = [n - sure for n, sure in zip(here[label], own[label], strict=True)]
                traces.append(bar | {"y": rest, "base": own[label], "opacity": _PALE, "showlegend": False})
    layout = panels(
        [f"Layer {layer}" for layer in layers],
        columns=1 if len(bars) * frame["category"].nunique() > CROWDED else 2 if len(layers) <= 4 else 3,
        y_title="neurons",
        xaxis={"tickfont": {"size": 11}},
        yaxis={"tickformat": ",", "rangemode": "tozero"},
        legend=[names[label] for label in bars],
        dark=dark,
    )
    return go.Figure(traces, layout | {"barmode": "group"})


def _facts(here: Mapping[str, Sequence[Any]], label: str, sure: Sequence[int] | None) -> list[str]:
    """What the hover says of each bar of one layer: “layer 13 · 2,114 code neurons in base · 11.2 % · …”."""
    in_layer = sum(here[label])
    facts = []
    for row, (layer, category, n, kept) in enumerate(
        zip(here["layer"], here["category"], here[label], here["intersection"], strict=True)
    ):
        if label == "intersection":
            said = f"{n:,} neurons are {category} in every model"
        else:
            share = style.percent(n / in_layer) if in_layer else "none"
            said = f"{n:,} {category} neurons in {label} · {share} · {kept:,} kept in all models"
        if sure is not None:
            said += f"<br>{sure[row]:,} of them are sure" + (f" · {style.percent(sure[row] / n)}" if n else "")
        facts.append(f"layer {layer} · {said}")
    return facts


def proportions(
    frame: pd.DataFrame, labels: Sequence[str], colours: Mapping[str, str], *, dark: bool = False
) -> go.Figure:
    """One bar per model, cut into the shares of its neurons in each category over all layers.

    A part's `customdata` is [model, None, category].

    Args:
        frame: layer, category and a column of neuron counts per model.
        labels: The models to show, top to bottom.
        colours: A colour per category.
        dark: The reader's theme.

    Source: NeuronMerge, Fig. 2a.
    """
    frame, colours, labels = style.plain_table(frame), style.plain_keys(colours), [*map(style.plain, labels)]
    counts = frame.groupby("category", sort=False)[labels].sum()
    shares = counts / counts.sum()
    marks, names = style.marks(colours), style.short_names(labels)
    traces = []
    for category, colour in colours.items():
        share_of = [float(shares.at[category, label]) for label in labels]
        written = [style.percent(share) for share in share_of]
        bar = {
            "type": "bar",
            "orientation": "h",
            "y": [names[label] for label in labels],
            "x": [100 * share for share in share_of],
            "name": category,
            "marker": {"color": colour, "pattern": {"shape": marks[category].pattern}},
            "text": written,
            "textposition": "inside",
            "insidetextanchor": "middle",
            "textangle": 0,
            "insidetextfont": {"color": style.ink_on(colour)},
            "hovertext": [
                f"{label} · {counts.at[category, label]:,} {category} neurons · {share}"
                for label, share in zip(labels, written, strict=True)
            ],
            "hoverinfo": "text",
            "customdata": [[label, None, category] for label in labels],
        }
        traces.append(bar)
    room = legend_room(list(colours), HALF)
    layout = {
        "template": style.template(dark),
        "barmode": "stack",
        "legend": {"traceorder": "normal"},
        "uniformtext": {"mode": "hide", "minsize": 11},
        "height": 56 + room + 46 * len(labels),
        "margin": {"t": room + 10},
        "meta": {"legend": room},
        "xaxis": {
            "title": {"text": "share of neurons, %"},
            "range": [0, 100],
            "dtick": 25,
            "ticklabeloverflow": "allow",  # 100 stands at the very edge
            "showgrid": False,
        },
        "yaxis": {"autorange": "reversed", "ticklabelstandoff": 6},
    }
    return go.Figure(traces, layout)


def over_depth(frame: pd.DataFrame, label: str, colours: Mapping[str, str], *, dark: bool = False) -> go.Figure:
    """The number of neurons of each category in each layer of one model, one line per category.

    A point's `customdata` is [model, layer, category].

    Args:
        frame: layer, category and a column of neuron counts called `label`.
        label: The model to show.
        colours: A colour per category.
        dark: The reader's theme.

    Source: NeuronMerge, Fig. 9.
    """
    frame, colours, label = style.plain_table(frame), style.plain_keys(colours), style.plain(label)
    per_layer = frame.groupby("layer")[label].sum().to_dict()
    marks, room = style.marks(colours), legend_room(list(colours), HALF)
    traces = []
    for category, colour in colours.items():
        line = frame[frame["category"] == category]
        layers, neurons = line["layer"].tolist(), line[label].tolist()
        trace = {
            "type": "scatter",
            "x": layers,
            "y": neurons,
            "mode": "lines+markers",
            "name": category,
            "line": {"color": colour, "width": 2, "dash": marks[category].dash},
            "marker": {"size": 6, "symbol": marks[category].symbol},
            "hovertext": [
                f"layer {layer} · {n:,} {category} neurons in {label} · {style.percent(n / per_layer[layer])}"
                for layer, n in zip(layers, neurons, strict=True)
            ],
            "hoverinfo": "text",
            "customdata": [[label, layer, category] for layer in layers],
        }
        traces.append(trace)
    layout = {
        "template": style.template(dark),
        "height": 266 + room,
        "margin": {"t": room + 10},
        "meta": {"legend": room},
        "xaxis": {"title": {"text": "layer"}, "showgrid": False, **numbered_axis(list(per_layer))},
        "yaxis": {"title": {"text": "neurons"}, "rangemode": "tozero", "tickformat": ","},
    }
    return go.Figure(traces, layout)
