"""What the two papers report, as numbers, by figure and table: facts, quoted with their source."""

from io import StringIO

import pandas as pd


def table(text: str) -> pd.DataFrame:
    """Read a table whose columns `|` divides; numbers become numbers, and empty places are missing."""
    lines = "\n".join("|".join(cell.strip() for cell in line.split("|")) for line in text.strip().splitlines())
    return pd.read_csv(StringIO(lines), sep="|")
