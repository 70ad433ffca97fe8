"""What became of neurons in a merge: the categories they ended up in, and what it kept of each fine-tune."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from nmerge_core.figures import style
from nmerge_core.figures.merge import by_layer
from nmerge_core.figures.panels import cell, legend_room, panels

SHARE_KEPT = "share of the change kept, %"
FULL = style.over(style.MERGE, 0.45, style.LIGHT_INK)  # light enough for Plotly's own dark text
ROW, FRAME = 40, 92  # pixels of a category, and of a panel around its categories


def became(frame: pd.DataFrame, *, dark: bool = False) -> go.Figure:
    """A panel per fine-tune: of the neurons of each of its categories, the shares in each category of the merge.

    A cell's `customdata` is [model, None, category, category in the merge].

    Args:
        frame: model, before, after, neurons, share; all pairs of categories of each model.
        dark: The reader's theme.
    """
    frame = style.plain_table(frame)
    models, categories = ([*dict.fromkeys(frame[column])] for column in ("model", "before"))
    names = style.short_names(models)
    traces = [_shares(index, frame[frame["model"] == model], categories, dark) for index, model in enumerate(models)]
    layout = panels(
        [f"{names[model]} fine-tune" for model in models],
        x_title="category in the merge",
        y_title="category in the fine-tune",
        xaxis={"showgrid": False, "tickfont": {"size": 11}},
        yaxis={"autorange": "reversed", "showgrid": False, "ticklabelstandoff": 6},
        height=FRAME + ROW * len(categories),
        dark=dark,
    )
    return go.Figure(traces, layout)


def _shares(index: int, frame: pd.DataFrame, categories: list[str], dark: bool) -> dict[str, Any]:
    """The trace of one model's shares."""
    order = {"index": "before", "columns": "after"}
    shares, counts = (frame.pivot(**order, values=of).loc[categories, categories] for of in ("share", "neurons"))
    told = [
        [
            f"{counts.at[before, after]:,} of {counts.loc[before].sum():,} {before} neurons of {frame['model'].iloc[0]}"
            f"<br>are {after} in the merge · {_percent(shares.at[before, after])}"
            for after in categories
        ]
        for before in categories
    ]
    model = frame["model"].iloc[0]
    return {
        "type": "heatmap",
        "x": categories,
        "y": categories,
        "z": shares.to_numpy().tolist(),
        "zmin": 0,
        "zmax": 1,
        "colorscale": [[0, style.background(dark)], [1, FULL]],
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        "text": [[_percent(share) for share in row] for row in shares.to_numpy()],
        "texttemplate": "%{text}",
        "hovertext": told,
        "hoverinfo": "text",
        "customdata": [[[model, None, before, after] for after in categories] for before in categories],
        **cell(index),
    }


def _percent(share: float) -> str:
    return "–" if share != share else style.percent(share)


def kept(frame: pd.DataFrame, colours: Mapping[str, str], *, dark: bool = False) -> go.Figure:
    """For each category a bar per fine-tune: the share of its change in these neurons that the merge has.

    A bar's `customdata` is [model, None, category].

    Args:
        frame: category, model, neurons, kept.
        colours: The colour of each fine-tune.
        dark: The reader's theme.
    """
    frame, colours = style.plain_table(frame), style.plain_keys(colours)
    names, marks = style.short_names(dict.fromkeys(frame["model"])), style.marks(colours)
    traces = []
    for model, rows in frame.groupby("model", sort=False):
        bar = {
            "type": "bar",
            "x": rows["category"],
            "y": 100 * rows["kept"],
            "name": names[str(model)],
            "marker": {"color": colours[str(model)], "pattern": {"shape": marks[str(model)].pattern}},
            "hovertext": [
                f"{row.neurons:,} {row.category} neurons<br>"
                f"{_percent(row.kept)} of what {model} changed in them is kept"
                for row in rows.itertuples()
            ],
            "hoverinfo": "text",
            "customdata": [[str(model), None, category] for category in rows["category"]],
        }
        traces.append(bar)
    room = legend_room(list(names.values()))
    layout = {
        "template": style.template(dark),
        "barmode": "group",
        "height": 260 + room,
        "margin": {"t": room + 10},
        "meta": {"legend": room},
        "xaxis": {"title": {"text": "category in the base"}, "showgrid": False},
        "yaxis": {"title": {"text": SHARE_KEPT}, "zeroline": True, "zerolinewidth": 1.5},
    }
    return go.Figure(traces, layout)


def kept_over_depth(frame: pd.DataFrame, colours: Mapping[str, str], *, dark: bool = False) -> go.Figure:
    """The same over the layers, a panel per category; columns category, layer, model, kept."""
    lines = frame.rename(columns={"category": "part"}).assign(kept=100 * frame["kept"]).dropna(subset="kept")
    return by_layer(lines[["model", "layer", "part", "kept"]], SHARE_KEPT, colours, dark=dark)
