"""What a merge method found: a number per fine-tune and layer, or per step of a search."""

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go

from nmerge_core.figures import style
from nmerge_core.figures.linearity import neurons_behind, part_title
from nmerge_core.figures.panels import line_trace, numbered_axis, panels


def by_layer(
    frame: pd.DataFrame, title: str, colours: Mapping[str, str], *, from_zero: bool = False, dark: bool = False
) -> go.Figure:
    """Draw a number of each fine-tune over the layers, a panel per part of a layer.

    The `customdata` of a point is as of `neurons_behind`.

    Args:
        frame: Columns model, layer, perhaps part (attention, mlp or a category), and one with the number.
        title: What the number is.
        colours: The colour of each model.
        from_zero: Whether the axis begins at 0, for what is nothing there.
        dark: The reader's theme.
    """
    frame, colours = style.plain_table(frame), style.plain_keys(colours)
    [number] = [column for column in frame.columns if column not in ("model", "layer", "part")]
    frame = frame if "part" in frame else frame.assign(part="")
    found = list(dict.fromkeys(frame["part"]))
    titles = [part_title(part) if part else "" for part in found]
    names, marks = style.short_names(dict.fromkeys(frame["model"])), style.marks(colours)
    traces = []
    for index, (part, panel) in enumerate(zip(found, titles, strict=True)):
        for model, line in frame[frame["part"] == part].groupby("model", sort=False):
            line = line.sort_values("layer")
            told = [
                f"layer {layer}{f' · {panel}' if panel else ''}<br>{model}: {style.significant(value)}"
                for layer, value in zip(line["layer"], line[number], strict=True)
            ]
            x, y, colour = line["layer"], line[number], colours[str(model)]
            name, mark = names[str(model)], marks[str(model)]
            trace = line_trace(index, name, x, y, colour, told, in_legend=index == 0, mark=mark)
            traces.append(trace | neurons_behind(str(model), x, part))
    layout = panels(
        titles,
        x_title="layer",
        y_title=title,
        xaxis=numbered_axis(list(frame["layer"])),
        yaxis={"zeroline": True, "zerolinewidth": 1.5, **({"rangemode": "tozero"} if from_zero else {})},
        height=340 if len(titles) <= 3 else 260,
        legend=list(names.values()),
        dark=dark,
    )
    return go.Figure(traces, layout)


def history(values: Sequence[float], title: str, *, dark: bool = False) -> go.Figure:
    """Draw a number per step or candidate of a search."""
    steps = list(range(1, len(values) + 1))
    told = [f"{step:,} · {style.significant(value)}" for step, value in zip(steps, values, strict=True)]
    layout = panels([""], columns=1, x_title="step", y_title=title, dark=dark)
    line = line_trace(0, title, steps, values, style.MERGE, told, in_legend=False)
    return go.Figure([line], layout)
