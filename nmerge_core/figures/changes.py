"""What fine-tunes changed in the neurons of every layer, and whether they agree, as a heat map."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from nmerge_core.figures import style
from nmerge_core.figures.inheritance import FULL
from nmerge_core.figures.layer_map import layer_map


@dataclass(frozen=True)
class Quantity:
    """A number that a neuron has of each fine-tune or, `mutual`, of every two.

    `meaning` is what it says in a sentence, `unit` what stands beside the scale, `ticks` d3's format of its numbers.
    """

    title: str
    mutual: bool
    unit: str
    ticks: str
    write: Callable[[float], str]
    meaning: str


def _fine(share: float) -> str:
    """A share as a percentage with three significant digits, as small ones are common."""
    return f"{style.significant(100 * share)} %"


QUANTITIES = {
    "change": Quantity(
        "change",
        False,
        "‖τ‖ / ‖θ₀‖",
        ".3~p",
        _fine,
        "How long what a fine-tune changed in a neuron is, beside the neuron's weights in the base.",
    ),
    "parallel": Quantity(
        "parallel share",
        False,
        "‖τ∥‖² / ‖τ‖²",
        ".3~p",
        _fine,
        "How much of a change lies along the neuron's own weights in the base, which makes them longer or shorter; the "
        "rest turns them. Of a change at random it would be one over the number of weights: next to nothing.",
    ),
    "cosine": Quantity(
        "cosine between tasks",
        True,
        "cosine",
        ".3~g",
        style.significant,
        "Whether two fine-tunes moved a neuron the same way: 1 the same, 0 unrelated, −1 the opposite.",
    ),
    "opposed": Quantity(
        "sign conflict",
        True,
        "share",
        ".3~p",
        style.percent,
        "Of the weights that two fine-tunes both changed, the share that one made larger and the other smaller. "
        "Unrelated changes have 50 %: less is agreement, more is conflict.",
    ),
}


def over_layers(frame: pd.DataFrame, quantity: str, *, dark: bool = False) -> go.Figure:
    """Draw the mean of a quantity over each layer's neurons, layers across, and models, pairs or categories down.

    A cell's `customdata` is [layer, row]. The scale spans what there is.

    Args:
        frame: row, layer, neurons, value; as `similarity.tables.layer_means` gives.
        quantity: One of `QUANTITIES`.
        dark: The reader's theme.
    """
    shown = QUANTITIES[quantity]
    frame = style.plain_table(frame)
    layers, rows = sorted(frame["layer"].unique().tolist()), list(dict.fromkeys(frame["row"]))
    found = {(each.row, each.layer): each for each in frame.itertuples()}

    def known(row: str, layer: int) -> Any:
        each = found.get((row, layer))
        return each if each is not None and each.neurons else None

    def told(row: str, layer: int) -> str:
        if (each := known(row, layer)) is None:
            return f"layer {layer} · {row}<br>no neuron has a {shown.title}"
        return f"layer {layer} · {row}<br>{shown.title} {shown.write(each.value)}, the mean of {each.neurons:,} neurons"

    def written(row: str, layer: int) -> str:
        return "–" if (each := known(row, layer)) is None else shown.write(each.value)

    return layer_map(
        rows,
        layers,
        value=lambda row, layer: each.value if (each := known(row, layer)) is not None else None,
        written=written,
        told=told,
        behind=lambda row, layer: [layer, row],
        colour=FULL,
        unit=shown.unit,
        scale={"colorbar": {"tickformat": shown.ticks}},
        dark=dark,
    )
