"""The entries of a report: each figure and table of the papers with ours, or with why it cannot be made."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from nmerge_core.reports.findings import Findings, Lacking, NotYet
from nmerge_core.reports.item import Item
from nmerge_core.reports.items import ITEMS
from nmerge_core.reports.verdicts import NOT_MADE, NOT_YET, Verdict

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Entry:
    """An item as a family gives it; without a table, `verdict` says why."""

    item: Item
    verdict: Verdict
    table: pd.DataFrame | None = None
    light: "go.Figure | None" = None
    dark: "go.Figure | None" = None


def entries(found: Findings) -> Iterator[Entry]:
    """Yield every item of both papers, made and judged as far as the family allows."""
    for item in ITEMS:
        try:
            table = item.table(found)
        except Lacking as lacking:
            yield Entry(item, Verdict(NOT_YET if isinstance(lacking, NotYet) else NOT_MADE, str(lacking)))
            continue
        figures = [item.figure(found, dark) for dark in (False, True)] if item.figure else [None, None]
        yield Entry(item, found.judged(item.judge), table, *figures)
