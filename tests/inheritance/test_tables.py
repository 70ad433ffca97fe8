"""Where neurons of a category ended up, and what was kept of them, worked out by hand."""

import math

import pandas as pd
import pytest

from nmerge_core.figures import inheritance as figures
from nmerge_core.figures import style
from nmerge_core.inheritance.tables import became, kept_by, with_categories

ORDER = ["general", "math", "code"]


def neurons(*categories: str) -> pd.DataFrame:
    """Two layers of three neurons with these categories."""
    places = [(layer, neuron) for layer in (0, 1) for neuron in range(3)]
    return pd.DataFrame([(*place, each) for place, each in zip(places, categories, strict=True)],
                        columns=["layer", "neuron", "category"])  # fmt: skip


BASE = neurons("math", "general", "math", "math", "math", "general")
MERGE = neurons("math", "general", "general", "math", "code", "math")
# change and kept of math in neurons (0, 0), (0, 1), …; of its math neurons 1² · 0.5 + 2² · 1 + 1² · 0 + 0 = 4.5 of 6
CHANGES = pd.DataFrame(
    {
        "layer": [0, 0, 0, 1, 1, 1],
        "neuron": [0, 1, 2, 0, 1, 2],
        "model": "math",
        "change": [1.0, 3.0, 2.0, 1.0, 0.0, 1.0],
        "kept": [0.5, 0.5, 1.0, 0.0, math.nan, -0.5],
    }
)


def test_where_the_neurons_of_each_category_ended_up() -> None:
    found = became(BASE, MERGE, ORDER).set_index(["before", "after"])
    assert len(found) == 9
    assert found.loc["math", "neurons"].to_dict() == {"general": 1, "math": 2, "code": 1}
    assert found.loc["math", "share"].to_dict() == {"general": 0.25, "math": 0.5, "code": 0.25}
    assert found.loc["general", "share"].to_dict() == {"general": 0.5, "math": 0.5, "code": 0}
    assert found.loc["code", "neurons"].sum() == 0 and found.loc["code", "share"].isna().all()


def test_what_was_kept_of_a_category_is_of_all_its_change_taken_together() -> None:
    frame = with_categories(CHANGES, BASE, ORDER)
    assert list(dict.fromkeys(frame["category"])) == ["general", "math"]
    found = kept_by(frame, ["category"]).set_index("category")
    assert found["neurons"].to_dict() == {"general": 2, "math": 4}
    # general: (9 · 0.5 + 1 · -0.5) / (9 + 1) = 0.4
    assert found["kept"].to_dict() == pytest.approx({"general": 0.4, "math": 4.5 / 6})
    by_layer = kept_by(frame, ["category", "layer"]).set_index(["category", "layer"])["kept"].to_dict()
    # math in layer 0: (1 · 0.5 + 4 · 1) / 5 = 0.9
    assert by_layer == pytest.approx({("general", 0): 0.5, ("general", 1): -0.5, ("math", 0): 0.9, ("math", 1): 0})


def test_a_category_that_nobody_changed_has_no_share() -> None:
    frame = with_categories(CHANGES.assign(change=0.0), BASE, ORDER)
    assert kept_by(frame, ["category"])["kept"].isna().all()


def test_the_figures_tell_the_whole_fact() -> None:
    frame = became(BASE, MERGE, ORDER).assign(model="math")
    figure = figures.became(frame)
    [shares] = figure.data
    assert list(shares.x) == list(shares.y) == ORDER and list(shares.z[1]) == [0.25, 0.5, 0.25]
    assert shares.text[1][1] == "50.0 %" and shares.text[2][0] == "–"
    assert shares.hovertext[1][2] == "1 of 4 math neurons of math<br>are code in the merge · 25.0 %"
    kept = kept_by(with_categories(CHANGES, BASE, ORDER), ["category"])
    [bar] = figures.kept(kept, {"math": style.COLOURS["math"]}).data
    assert list(bar.x) == ["general", "math"] and list(bar.y) == pytest.approx([40, 75])
    assert bar.hovertext[1] == "4 math neurons<br>75.0 % of what math changed in them is kept"
    by_layer = kept_by(with_categories(CHANGES, BASE, ORDER), ["category", "layer"])
    lines = figures.kept_over_depth(by_layer, {"math": style.COLOURS["math"]}).data
    assert [value for line in lines for value in line.y] == pytest.approx([50, -50, 90, 0])
