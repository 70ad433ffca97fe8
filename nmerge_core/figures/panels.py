"""Small multiples: one panel per thing, common axes, one legend above them all."""

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from nmerge_core.figures import style

HEIGHT = 250  # pixels of one row of panels, its title and axis included
LEGEND = 34  # pixels of the legend above the first row


def panels(
    titles: Sequence[str],
    *,
    columns: int = 3,
    x_title: str = "",
    y_title: str = "",
    share_y: bool = True,
    height: int = HEIGHT,
    dark: bool = False,
) -> go.Figure:
    """Make an empty grid of titled panels, filled row by row with `cell`.

    Args:
        titles: One per panel.
        columns: The most panels beside each other.
        x_title: The axis under the lowest row.
        y_title: The axis left of the first column.
        share_y: Whether all panels have one scale.
        height: Pixels of one row.
        dark: The reader's theme.
    """
    columns = max(1, min(columns, len(titles)))
    rows = max(1, -(-len(titles) // columns))
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=[f"<b>{title}</b>" for title in titles],
        shared_yaxes="all" if share_y else False,
        horizontal_spacing=0.035 if share_y else 0.07,
        vertical_spacing=min(0.3, 64 / (rows * height)),
    )
    for annotation, axis in zip(figure.layout.annotations, figure.select_xaxes(), strict=False):
        annotation.update(x=axis.domain[0], xanchor="left", font={"size": 13})
    figure.update_layout(
        template=style.template(dark),
        height=rows * height + LEGEND,
        margin={"t": LEGEND + 30},
        legend={"yref": "container", "y": 1, "yanchor": "top"},
    )
    for column in range(1, columns + 1):  # the lowest panel of each column carries the axis title
        lowest = rows if (rows - 1) * columns + column <= len(titles) else rows - 1
        figure.update_xaxes(title_text=x_title, row=lowest, col=column)
    figure.update_yaxes(title_text=y_title, col=1)
    for index in range(len(titles), rows * columns):
        figure.update_xaxes(visible=False, **cell(index, columns))
        figure.update_yaxes(visible=False, **cell(index, columns))
    return figure


def cell(index: int, columns: int) -> dict[str, int]:
    """Place panel `index` in a grid of that many columns, as plotly's 1-based `row` and `col`."""
    return {"row": index // columns + 1, "col": index % columns + 1}


def layer_axis(figure: go.Figure, layers: Sequence[int]) -> None:
    """Mark layers on every x axis: each of them where there are few, whole numbers in any case."""
    few = len(set(layers)) <= 12
    figure.update_xaxes(tickformat=",d", **({"dtick": 1} if few else {"nticks": 8}))
