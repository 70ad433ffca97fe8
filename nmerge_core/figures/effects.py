"""What each category's neurons of each layer do: a heat map of knock-outs, layers across and categories down."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from nmerge_core.comparison.paired import LEVEL
from nmerge_core.figures import style
from nmerge_core.figures.layer_map import WRITTEN
from nmerge_core.figures.panels import cell, numbered_axis, panels
from nmerge_core.figures.scores import Metric, metric

LOSS, OWN = "loss", "own texts"  # the loss on all texts, and for each category on its own
_PALE = 0.3  # opacity of what may be chance
_FONT = 12  # pixels of the numbers
_ROW, _FRAME = 44, 90  # pixels of a category, and of a panel around its categories


def metrics_of(frame: pd.DataFrame) -> list[str]:
    """Return the metrics that effects can be drawn by: by loss first each category's on its own texts."""
    known = list(dict.fromkeys(frame["metric"]))
    return [OWN, *known] if LOSS in known else known


def of_metric(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the effects by a metric; by `OWN` those of each category on its own texts, of a list on all texts."""
    if name != OWN:
        return frame[frame["metric"] == name]
    own = frame["category"] + f"/{LOSS}"
    return frame[frame["metric"] == own.where(own.isin(frame["metric"]), LOSS)]


def by_layer(frame: pd.DataFrame, name: str, *, dark: bool = False) -> go.Figure:
    """Draw by how much a category's neurons of a layer matter more than random ones; pale where it may be chance.

    A panel for each model, layers across, categories down, of one colour scale: the merges' colour where the category
    matters more, the random control's where that does. The `customdata` of a cell is [model, layer, category].

    Args:
        frame: Columns model, layer, category, neurons, metric, intact, own, random, effect, stderr, adjusted, draws,
            problems (of `ablation.effects`).
        name: The metric to draw, or `OWN`.
        dark: The reader's theme.
    """
    rows = style.plain_table(of_metric(frame, name))
    known = metric(LOSS if name == OWN else style.plain(name))
    models, layers = style.short_names(dict.fromkeys(rows["model"]), 40), sorted(map(int, rows["layer"].unique()))
    categories = list(dict.fromkeys(rows["category"]))
    pale_text = {"size": _FONT, "color": style.base_colour(dark)}  # Plotly's own is for the ground in full colour
    cells = [
        _cells(panel, rows[(rows["model"] == model) & ((rows["adjusted"] < LEVEL) == sure)], layers, categories, known)
        | ({"coloraxis": "coloraxis"} if sure else {"coloraxis": "coloraxis2", "textfont": pale_text})
        for panel, model in enumerate(models)
        for sure in (True, False)
    ]
    layout = panels(
        list(models.values()),
        columns=1,
        x_title="layer",
        y_title="category",
        xaxis={"showgrid": False, "zeroline": False, **numbered_axis(layers)},
        yaxis={"autorange": "reversed", "showgrid": False, "ticklabelstandoff": 6},
        height=_FRAME + _ROW * len(categories),
        dark=dark,
    )
    largest = _scale(known) * float(rows["effect"].abs().max()) or 1.0
    bar = {"title": {"text": _axis(known), "font": {"size": 13}}, "thickness": 14}
    shared = {"cmin": -largest, "cmax": largest, "colorbar": bar}
    layout["coloraxis"] = {"colorscale": _colours(dark), **shared}
    layout["coloraxis2"] = {"colorscale": _pale_colours(), "showscale": False, **shared}
    return go.Figure(cells, layout)


def _cells(
    panel: int, rows: pd.DataFrame, layers: Sequence[int], categories: Sequence[str], known: Metric
) -> dict[str, Any]:
    """Some cells of one model's panel; the others are left empty."""
    found = {(row["category"], row["layer"]): row for row in rows.to_dict("records")}
    grid = [[found.get((category, layer)) for layer in layers] for category in categories]
    text = [[_number(row, known) if row and len(layers) <= WRITTEN else "" for row in line] for line in grid]
    return {
        "type": "heatmap",
        "x": list(layers),
        "y": list(categories),
        "z": [[_scale(known) * row["effect"] if row else None for row in line] for line in grid],
        "text": text,
        "texttemplate": "%{text}",
        "textfont": {"size": _FONT},
        "hovertext": [[_told(row, known) if row else "" for row in line] for line in grid],
        "customdata": [[row and [row["model"], row["layer"], row["category"]] for row in line] for line in grid],
        "hoverinfo": "text",
        "hoverongaps": False,
        "xgap": 2,
        "ygap": 2,
        **cell(panel),
    }


def _number(row: Mapping[str, Any], known: Metric) -> str:
    """The effect over its standard error, with as many decimals in all cells."""
    decimals = 1 if known.share else 2
    return "<br>± ".join(
        "?" if value != value else f"{_scale(known) * value:{sign}.{decimals}f}"
        for value, sign in ((row["effect"], "+"), (row["stderr"], ""))
    )


def _told(row: Mapping[str, Any], known: Metric) -> str:
    unit = " points" if known.share else ""
    sure = "distinguishable from chance" if row["adjusted"] < LEVEL else "not distinguishable from chance"
    return (
        f"layer {row['layer']} · {row['neurons']:,} {row['category']} neurons · {row['model']}<br>{known.title}: "
        f"{known.write(row['intact'])} intact, {known.write(row['own'])} without them, {known.write(row['random'])} "
        f"without as many random ones ({style.counted(row['draws'], 'draw')})<br>{known.change(row['effect'])} ± "
        f"{_plain(row['stderr'], known)}{unit} lost beyond random · p {row['adjusted']:.2g}, {sure}"
    )


def _plain(value: float, known: Metric) -> str:
    return "?" if value != value else known.change(value)[1:]


def _scale(known: Metric) -> float:
    return 100.0 if known.share else 1.0


def _axis(known: Metric) -> str:
    return f"lost beyond<br>random, {'points' if known.share else known.title.partition(', ')[2] or known.title}"


def _colours(dark: bool) -> list[list[Any]]:
    """The colours from where random neurons matter more to where the category's do."""
    return [[0, style.RANDOM], [0.5, style.background(dark)], [1, style.MERGE]]


def _pale_colours() -> list[list[Any]]:
    """The same of what may be chance, which lets the background through."""
    (low, none), (nil, high) = (
        [style.translucent(colour, opacity) for opacity in opacities]
        for colour, opacities in ((style.RANDOM, (_PALE, 0)), (style.MERGE, (0, _PALE)))
    )
    return [[0, low], [0.5, none], [0.5, nil], [1, high]]
