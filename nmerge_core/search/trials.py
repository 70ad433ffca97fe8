"""trials.csv: a row per finished trial, on the disk before the next begins."""

import csv
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmerge_core.errors import InputError

TRIAL, OBJECTIVE, SECONDS = "trial", "objective", "seconds"


@dataclass(frozen=True)
class Trial:
    """A finished trial: its number from 1, the searched values, every score by "task/metric", and its objective."""

    number: int
    point: Mapping[str, Any]
    scores: Mapping[str, float]
    objective: float
    seconds: float

    @property
    def row(self) -> dict[str, str]:
        """Its cells by column; numbers as Python writes them, so that reading gives the same bits."""
        values = {key: text_of(value) for key, value in self.point.items()}
        scores = {name: repr(value) for name, value in self.scores.items()}
        last = {OBJECTIVE: repr(self.objective), SECONDS: f"{self.seconds:.3f}"}
        return {TRIAL: str(self.number), **values, **scores, **last}


def text_of(value: Any) -> str:
    """Write a searched value into a cell: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def read_rows(file: Path) -> list[dict[str, str]]:
    """Read the rows that were written to their end; a line that a kill cut off is removed from the file."""
    if not file.exists():
        return []
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with file.open("r+b") as stream:
            stream.truncate(len(whole))
    rows = list(csv.DictReader(io.StringIO(whole.decode(), newline="")))
    for number, row in enumerate(rows, 1):
        try:
            float(row[OBJECTIVE])
        except (KeyError, TypeError, ValueError):
            raise InputError(
                f"{file}, trial {number}: expected a number as its objective; the file was changed by hand, "
                "take a new folder"
            ) from None
    return rows


def append(file: Path, trial: Trial) -> None:
    """Add a row, below a header if it is the first, and have it on the disk."""
    row = trial.row
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(row), lineterminator="\n")
    if not file.exists() or not file.stat().st_size:
        writer.writeheader()
    writer.writerow(row)
    with file.open("ab") as stream:
        stream.write(text.getvalue().encode())
        stream.flush()
        os.fsync(stream.fileno())
