"""Tables that NMerge wrote and reads again."""

from pathlib import Path

import pandas as pd
import pytest

from nmerge_core.files.kept_files import read_csv

NAMES = ["2024", "NA", "null", "nan", "None", "N/A", "-inf"]


def test_names_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Else a category called NA would be the group of all neurons, which has no name, and 2024 would be 2024.0."""
    frame = pd.DataFrame({"group": [None, *NAMES], "category": "2024", "part": "NA", "value": [None, *range(7)]})
    frame.to_csv(tmp_path / "table.csv", index=False)
    found = read_csv(tmp_path / "table.csv")
    assert found["group"].isna().tolist() == [True] + [False] * 7 and found["group"].tolist()[1:] == NAMES
    assert set(found["category"]) == {"2024"} and set(found["part"]) == {"NA"}
    assert pd.isna(found["value"][0]) and found["value"].tolist()[1:] == pytest.approx(range(7))


def test_numbers_that_are_none_leave_a_column_of_numbers(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("group,value\nnan,nan\nb,0.5\n")  # as a sweep writes a trial's scores
    found = read_csv(tmp_path / "table.csv", ("value",))
    assert found["group"].tolist() == ["nan", "b"] and pd.isna(found["value"][0])
    assert found[["value"]].mean(axis="columns", skipna=False).tolist()[1] == 0.5
