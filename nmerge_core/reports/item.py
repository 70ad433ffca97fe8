"""A figure or a table of a paper: what it finds, its own numbers, and how it is made and judged of a family."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from nmerge_core.reports.findings import Findings, Lacking
from nmerge_core.reports.verdicts import Verdict, nothing

if TYPE_CHECKING:
    import plotly.graph_objects as go

NEURONMERGE, NEUROMERGING = "NeuronMerge", "NeuroMerging"


def _no_trend(found: Findings) -> Verdict:
    return nothing()


@dataclass(frozen=True)
class Item:
    """One entry: `trend` is what the paper finds, in a sentence, and `note` in what ours differs.

    `table` makes ours, or raises Lacking with why it cannot be made; `figure` draws it, dark or light. `behind` says
    what in the figure stands for neurons, if anything does: its `customdata` is [model, layer, category].
    """

    paper: str
    number: str
    title: str
    trend: str
    table: Callable[[Findings], pd.DataFrame]
    published: pd.DataFrame | None = None
    figure: "Callable[[Findings, bool], go.Figure] | None" = None
    judge: Callable[[Findings], Verdict] = _no_trend
    note: str = ""
    behind: str = ""

    @property
    def id(self) -> str:
        """Its name in files and links, such as neuronmerge-table-1."""
        return f"{self.paper} {self.number}".lower().replace(" ", "-")


def cannot(why: str) -> Callable[[Findings], pd.DataFrame]:
    """Return what makes the table of an entry that no family of the kind that is read here can give."""

    def table(found: Findings) -> pd.DataFrame:
        raise Lacking(why)

    return table
