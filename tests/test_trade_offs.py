"""Which models no other beats in two columns, worked out by hand; and where the names of points stand."""

import pandas as pd
import pytest

from nmerge_core.figures.trade_offs import front, radar, trade_off

TABLE = pd.DataFrame(
    {
        "math, %": [10.0, 50.0, 30.0, 30.0, 20.0, float("nan")],
        "code, %": [60.0, 20.0, 40.0, 40.0, 30.0, 90.0],
        "text ↓": [1.0, 3.0, 2.0, 2.0, 1.5, 0.5],
    },
    ["code", "math", "both", "same", "less", "untold"],
)
COLOURS = dict.fromkeys(TABLE.index, "#123456")


def test_the_front_has_what_no_other_beats_in_both_also_where_less_is_better() -> None:
    """`less` (20, 30) is beaten by both (30, 40), and over text ↓ (20, 1.5) by none; `untold` has no number of math."""
    assert front(TABLE, "math, %", "code, %") == ["code", "both", "same", "math"]
    assert front(TABLE, "math, %", "text ↓") == ["code", "less", "both", "same", "math"]
    assert front(TABLE, "code, %", "text ↓") == ["untold"]  # 90 % with 0.5: before all in both
    assert front(TABLE.iloc[:0], "math, %", "code, %") == []


@pytest.mark.parametrize(
    ("across", "up", "shape", "towards"),
    [
        ("math, %", "code, %", "vh", ("→", "↑")),
        ("text ↓", "code, %", "hv", ("←", "↑")),
        ("math, %", "text ↓", "vh", ("→", "↓")),
    ],
)
def test_every_point_is_named_and_the_axes_say_where_it_is_better(
    across: str, up: str, shape: str, towards: tuple[str, str]
) -> None:
    figure = trade_off(TABLE, across, up, COLOURS)
    line, *points = figure.data
    assert line.line.shape == shape and list(line.x) == TABLE.loc[front(TABLE, across, up), across].tolist()
    named = {point.text[0].removeprefix("<b>").removesuffix("</b>") for point in points}
    assert named == set(TABLE[[across, up]].dropna().index)
    titles = figure.layout.xaxis.title.text, figure.layout.yaxis.title.text
    assert [f"({arrow} better)" in title for arrow, title in zip(towards, titles, strict=True)] == [True, True]
    places = {point.text[0]: point.textposition for point in points}
    if across == "math, %" and up == "code, %":
        assert places["<b>both</b>"] != places["<b>same</b>"]  # at one point


def test_a_radar_has_each_number_as_a_share_of_the_best() -> None:
    """Of code 60, 20: 100 and 33 %; of text ↓ 1, 3 the least is the best: 100 and 33 %; of columns of zeros all are."""
    table = TABLE.loc[["code", "math"]].assign(none=0.0)
    one, other = radar(table, COLOURS).data
    assert list(one.r) == pytest.approx([20, 100, 100, 100, 20])
    assert list(other.r) == pytest.approx([100, 100 / 3, 100 / 3, 100, 100])
    assert "text ↓: 3.000" in other.hovertext[2]
