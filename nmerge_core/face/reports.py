"""Both papers' figures and tables of one's own models, beside the papers' own, and what the models say to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from nmerge_core.errors import InputError
from nmerge_core.face.calls import Reference, do, text
from nmerge_core.face.kept import open_family
from nmerge_core.face.results import Result
from nmerge_core.family import Family
from nmerge_core.files.kept_files import read_csv, reading
from nmerge_core.parameters.settings import ALLOW_TASK_CODE, DEVICE, RUN_CODE
from nmerge_core.progress import shown_progress
from nmerge_core.reports.budget import BUDGET
from nmerge_core.reports.said import read_said
from nmerge_core.runs.kept import finished_results, newest_labels

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Report(Result):
    """A report: `index.html` in its folder needs no server; entries are called as neuronmerge-table-1 and the like."""

    @property
    def page(self) -> Path:
        """The file that shows it all."""
        return self.path / "index.html"

    @cached_property
    def claims(self) -> pd.DataFrame:
        """The six findings: claim, source, verdict, value with low and high, what was measured, and reasons."""
        return self._table("tables/claims.csv")

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """What the family says to each figure and table: id, paper, number, title, trend, note, verdict, told."""
        return pd.DataFrame([{"id": name, **asdict(each)} for name, each in read_said(self.path).items()])

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The family's own tables by the entry's name, those that could be made."""
        return self._tables("tables")

    @cached_property
    def papers(self) -> dict[str, pd.DataFrame]:
        """What the papers report, by the entry's name."""
        return self._tables("papers")

    def _tables(self, folder: str) -> dict[str, pd.DataFrame]:
        return {file.stem: read_csv(file) for file in sorted((self.path / folder).glob("*.csv"))}

    def figure(self, entry: str, *, dark: bool = False) -> go.Figure:
        """Draw an entry.

        Raises:
            InputError: there is no figure of that name.
        """
        from plotly.io import from_json

        file = self.path / "figures" / f"{entry}-{'dark' if dark else 'light'}.json"
        if not file.is_file():
            drawn = sorted(each.name.removesuffix("-light.json") for each in file.parent.glob("*-light.json"))
            raise InputError(f"figure {entry!r}: expected one of {', '.join(drawn)}")
        with reading(file):
            return from_json(file.read_text(encoding="utf-8"), skip_invalid=True)


def report(
    family: Reference | Mapping[str, Any] | Family,
    out: Reference | None = None,
    *,
    budget: str = BUDGET.default,
    run_code: bool = RUN_CODE.default,
    allow_task_code: bool = ALLOW_TASK_CODE.default,
    device: str = DEVICE.default,
    progress: bool = True,
) -> Report:
    """Make every figure and table of both papers that a family allows, beside the papers' own; a stopped one goes on.

    Args:
        family: a family's YAML, the name of one saved by the app, what stands in one, or "demo".
        out: the folder to write, or to go on with; a run of the cache by default.
        budget: "quick", a first look, or "full", with the points of the papers.
        run_code: let tasks run the code that models write, in the sandbox.
        allow_task_code: let tasks run code of their own, outside of any sandbox: read it first.
        device: "auto", "cpu", "cuda:1", ….
        progress: whether it is shown.

    Raises:
        InputError: the family has a mistake, or something that it names cannot be read.
    """
    from nmerge_core.reports.parameter import content_of
    from nmerge_core.reports.parameter import open_family as as_family

    opened = family if isinstance(family, Family) else as_family(family) if isinstance(family, Mapping) else None
    chosen = opened or open_family(family)  # type: ignore[arg-type]
    given: dict[str, Any] = {"run_code": run_code, "allow_task_code": allow_task_code, "device": device}
    if out is None:
        return Report(do("report", progress, family=content_of(chosen), budget=budget, **given).results)
    from nmerge_core.reports.make import make_report

    BUDGET.check(budget, "budget")
    folder, told = Path(text(out)), shown_progress(progress)
    labelled = newest_labels(chosen.base, chosen.corpus)
    make_report(chosen, folder, budget=budget, **given, labelled=labelled, progress=told, kept=finished_results)
    return Report(folder)
