"""How far a submodule is from linear in its weights, layer by layer (NeuronMerge, §2.4 and App. B)."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from nmerge_core.comparison.paired import LEVEL
from nmerge_core.figures import style
from nmerge_core.figures.panels import cell, line_trace, numbered_axis, panels

_WHOLE = {"attention": "attention", "mlp": "whole MLP", "layer": "whole layer"}
SAFE = 0.1  # ours, as no paper has one: an effect that is off by a tenth keeps a cosine of √(1 − 0.1²) ≥ 0.995
ALL_GROUPS, RANDOM_GROUPS, ALL_NEURONS = "by function", "by chance", "not grouped"
_ATTENTION = style.Mark("dot", "circle", "")  # beside the MLP, of the same colour


def parts(frame: pd.DataFrame) -> pd.Series:
    """Name each row's part of a layer: attention, mlp, or the category of a neuron group."""
    return frame["group"].where(frame["submodule"] == "group", frame["submodule"])


def part_title(part: str) -> str:
    """Write a part of a layer as readers know it: attention, whole MLP, code neurons."""
    return _WHOLE.get(part, f"{part} neurons")


def neurons_behind(model: str, layers: Iterable[int], part: str) -> dict[str, Any]:
    """Return the `customdata` of a part's points: [model, layer, category or None for all]; none of attention."""
    if part in ("attention", "layer"):
        return {}
    category = None if part in ("mlp", "") else part
    return {"customdata": [[model, int(layer), category] for layer in layers]}


def nonlinearity(
    frame: pd.DataFrame, colours: Mapping[str, str], *, title: str = "{}", dark: bool = False
) -> go.Figure:
    """Draw the non-linearity of attention, MLP and neuron groups, a panel per fine-tune; the mean over α.

    The `customdata` of a point is as of `neurons_behind`.

    Args:
        frame: Columns model, layer, submodule, group, alpha, value (of `linearity.measure`).
        colours: The colour of each category, in the order the categories are drawn.
        title: How a panel's title is made from the model's name.
        dark: The reader's theme.
    """
    frame, colours = style.plain_table(frame), style.plain_keys(colours)
    mean = frame.assign(part=parts(frame)).groupby(["model", "part", "layer"], sort=False)["value"].mean().reset_index()
    models, marks = style.short_names(dict.fromkeys(mean["model"]), 20), style.marks(colours)
    traces: list[dict[str, Any]] = []
    for index, model in enumerate(models):
        lines = dict(list(mean[mean["model"] == model].groupby("part")))
        for part in (part for part in (*_WHOLE, *colours) if part in lines):
            line, title_of_part = lines[part], part_title(part)
            told = [
                f"layer {layer} · {title_of_part} · {model}<br>non-linearity {style.significant(value)}, "
                "the mean over α and tokens"
                for layer, value in zip(line["layer"], line["value"], strict=True)
            ]
            trace = line_trace(
                index,
                title_of_part,
                line["layer"],
                line["value"],
                style.base_colour(dark) if part in _WHOLE else colours[part],
                told,
                in_legend=all(other["name"] != title_of_part for other in traces),
                mark=_ATTENTION if part == "attention" else marks.get(part, style.PLAIN),
            )
            traces.append(trace | neurons_behind(model, line["layer"], part))
    layout = panels(
        [title.format(short) for short in models.values()],
        x_title="layer",
        y_title="non-linearity (0 = linear)",
        xaxis=numbered_axis(list(frame["layer"])),
        yaxis={"rangemode": "tozero"},
        height=340 if len(models) <= 3 else 260,
        legend=[trace["name"] for trace in traces if trace["showlegend"]],
        dark=dark,
    )
    return go.Figure(traces, layout)


def by_chance(
    frame: pd.DataFrame, group: str, colours: Mapping[str, str], *, title: str = "{}", dark: bool = False
) -> go.Figure:
    """Draw a group's non-linearity over the layers, beside random groups of its size and all neurons of the layer.

    Bars are 95 % intervals over texts, the band reaches from the lowest random grouping to the highest. The
    `customdata` of the group's points is as of `neurons_behind`.

    Args:
        frame: Of `nonlinearity.by_chance`.
        group: A category, or "" for all groups by their sizes.
        colours: The colour of each category.
        title: How a panel's title is made from the model's name.
        dark: The reader's theme.
    """
    frame, colours, group = style.plain_table(frame), style.plain_keys(colours), style.plain(group)
    rows = frame[frame["group"] == group].dropna(subset=["layer", "value"]).astype({"layer": int})
    models = style.short_names(dict.fromkeys(frame["model"]), 20)
    traces = [
        trace
        for index, model in enumerate(models)
        for trace in _against_chance(index, rows[rows["model"] == model], colours.get(group, style.MERGE), dark)
    ]
    layout = panels(
        [title.format(short) for short in models.values()],
        x_title="layer",
        y_title="non-linearity (0 = linear)",
        xaxis=numbered_axis(list(rows["layer"])),
        height=320 if len(models) <= 3 else 260,
        legend=[trace["name"] for trace in traces if trace["showlegend"]],
        dark=dark,
    )
    return go.Figure(traces, layout)


def _against_chance(panel: int, rows: pd.DataFrame, colour: str, dark: bool) -> list[dict[str, Any]]:
    """The band and line of random groups, the line of all neurons, and that of the group with its intervals."""
    told = [_compared(row) for row in rows.to_dict("records")]
    shared: dict[str, Any] = {"in_legend": panel == 0}
    band = {
        "type": "scatter",
        "x": pd.concat([rows["layer"], rows["layer"][::-1]]),
        "y": pd.concat([rows["random_high"], rows["random_low"][::-1]]),
        "mode": "lines",
        "fill": "toself",
        "fillcolor": style.translucent(style.RANDOM, 0.25),
        "line": {"width": 0},
        "legendgroup": RANDOM_GROUPS,
        "showlegend": False,
        "hoverinfo": "skip",
        **cell(panel),
    }
    chance, dashed = style.RANDOM, style.Mark("dash", "circle", "")
    random = line_trace(panel, RANDOM_GROUPS, rows["layer"], rows["random"], chance, told, mark=dashed, **shared)
    black, dotted = style.base_colour(dark), style.Mark("dot", "square", "")
    whole = line_trace(panel, ALL_NEURONS, rows["layer"], rows["whole"], black, told, mark=dotted, **shared)
    own = line_trace(panel, ALL_GROUPS, rows["layer"], rows["value"], colour, told, marker=7, **shared)
    own |= neurons_behind(str(rows["model"].iloc[0]), rows["layer"], str(rows["group"].iloc[0])) if len(rows) else {}
    own["error_y"] = {"array": rows["high"] - rows["value"], "thickness": 1.5, "width": 4, "color": colour}
    return [band, random, whole, own]


def _compared(row: Mapping[str, Any]) -> str:
    told = {name: style.significant(value) for name, value in row.items() if isinstance(value, float)}
    group = f"{row['group']} neurons" if row["group"] else "all groups"
    sure = "distinguishable from chance" if row["adjusted"] < LEVEL else "not distinguishable from chance"
    texts, groupings = style.counted(row["texts"], "text"), style.counted(row["draws"], "grouping")
    return (
        f"layer {row['layer']} · {group} · {row['model']}<br>non-linearity {told['value']} by function (95 % between "
        f"{told['low']} and {told['high']}, {texts})<br>{told['random']} by chance ({told['random_low']} to "
        f"{told['random_high']}, {groupings}): {sure}<br>{told['whole']} of all neurons together<br>of the groups' "
        f"error the theorem's quadratic term is {told['quadratic']}, the bend of φ {told['bend']}"
    )
