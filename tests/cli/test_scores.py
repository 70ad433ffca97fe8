"""What evaluate prints is written as on the pages."""

import pandas as pd

from nmerge_core.cli.output import print_table
from nmerge_core.cli.scores import difference, score, written

TABLE = pd.DataFrame(
    {
        "model": ["base"] * 3,
        "metric": ["exact_match,strict", "math/loss", "acc"],
        "value": [0.54, 1.2345, float("nan")],
        "low": [0.5, -0.25, float("nan")],
        "samples": [50, 12, 7],
    }
)


def test_shares_are_in_percent_and_their_differences_in_points(capsys) -> None:
    shown = written(TABLE, score)
    assert list(shown)[2:] == ["value", "low", "samples"] and list(shown["value"][:2]) == ["54.0 %", "1.23"]
    assert list(written(TABLE, difference)["low"][:2]) == ["+50.0 points", "-0.250"]
    assert list(shown["samples"]) == [50, 12, 7]
    print_table(shown)
    assert capsys.readouterr().out.splitlines()[-1].split() == ["base", "acc", "–", "–", "7"]
