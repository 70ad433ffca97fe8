"""Scores and their differences in print, as the pages write them: shares in percent, their differences in points."""

from collections.abc import Callable

import pandas as pd

from nmerge_core.figures.scores import metric

_NUMBERS = ("value", "difference", "low", "high", "detectable")  # columns that are of the unit of their row's metric


def score(name: str, value: float) -> str:
    """Write a value of the metric of this name."""
    return metric(name).write(value)


def difference(name: str, value: float) -> str:
    """Write a difference of two values of the metric of this name."""
    known = metric(name)
    return known.change(value) + (" points" if known.share else "")


def written(table: pd.DataFrame, write: Callable[[str, float], str]) -> pd.DataFrame:
    """Return a table with a column `metric` and its numbers as text; what is missing stays so."""
    texts = {
        column: [
            write(name, value) if pd.notna(value) else value
            for name, value in zip(table["metric"], table[column], strict=True)
        ]
        for column in _NUMBERS
        if column in table
    }
    return table.assign(**texts)
