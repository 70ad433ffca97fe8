"""How far a submodule is from linear in its weights, layer by layer (NeuronMerge, §2.4 and App. B)."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from nmerge_core.figures import style
from nmerge_core.figures.panels import layer_axis, line_trace, panels

_WHOLE = {"attention": "attention", "mlp": "whole MLP", "layer": "whole layer"}
_ATTENTION = style.Mark("dot", "circle", "")  # beside the MLP, of the same colour


def parts(frame: pd.DataFrame) -> pd.Series:
    """Name each row's part of a layer: attention, mlp, or the category of a neuron group."""
    return frame["group"].where(frame["submodule"] == "group", frame["submodule"])


def part_title(part: str) -> str:
    """Write a part of a layer as readers know it: attention, whole MLP, code neurons."""
    return _WHOLE.get(part, f"{part} neurons")


def nonlinearity(
    frame: pd.DataFrame, colours: Mapping[str, str], *, title: str = "{}", dark: bool = False
) -> go.Figure:
    """Draw the non-linearity of attention, MLP and neuron groups, a panel per fine-tune; the mean over α.

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
            traces.append(trace)
    layout = panels(
        [title.format(short) for short in models.values()],
        x_title="layer",
        y_title="non-linearity (0 = linear)",
        xaxis=layer_axis(list(frame["layer"])),
        yaxis={"rangemode": "tozero"},
        height=340 if len(models) <= 3 else 260,
        legend=[trace["name"] for trace in traces if trace["showlegend"]],
        dark=dark,
    )
    return go.Figure(traces, layout)
