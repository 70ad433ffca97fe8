from pathlib import Path

import pandas as pd
import pytest

from nmerge_core.activations.store import open_classification
from tests.app.conftest import OpenPage
from tests.app.scored import click, done, drawn, models

PAGE = "pages/6_Linearity.py"


def test_nonlinearity_with_groups_and_coefficients(tiny_cache: Path, open_page: OpenPage) -> None:
    known, corpus = models(tiny_cache), str(tiny_cache / "corpus")
    classified = done(tiny_cache, "classify", {"model": known["base"], "corpus": corpus})
    asked = {
        "base": known["base"],
        "models": [known["math"], known["code"]],
        "corpus": corpus,
        "neurons": classified.id,
        "categories": ["math", "code"],
        "samples": 5,
    }
    run = done(tiny_cache, "linearity", asked)
    app = open_page(PAGE, linearity_samples="5")
    figure, groups, solved = (drawn(app, place) for place in range(3))
    assert {line.name for line in figure.data} >= {"attention", "whole MLP", "general neurons"}
    frame = pd.read_csv(run.results / "linearity.csv")
    attention = frame[(frame["model"] == "math") & (frame["submodule"] == "attention") & (frame["layer"] == 0)]
    line = next(line for line in figure.data if line.name == "attention")
    assert abs(line.y[0] - attention["value"].mean()) < 1e-9  # the mean over the nine α
    chance = pd.read_csv(run.results / "by_chance.csv")
    rows = chance[(chance["model"] == "math") & (chance["layer"] == 0) & chance["group"].isna()]
    found = {line.name: line for line in groups.data if line.xaxis == "x"}
    for name, column in (("by function", "value"), ("by chance", "random"), ("not grouped", "whole")):
        assert found[name].y[0] == pytest.approx(rows[column].item())
    assert any("against random groups of the same sizes" in text.value for text in app.markdown)
    assert any("**Safe** we call up to 0.1" in text.value for text in app.caption)
    app.segmented_control(key="linearity_group").set_value("general").run()
    general = chance[(chance["model"] == "math") & (chance["layer"] == 0) & (chance["group"] == "general")]
    line = next(line for line in drawn(app, 1).data if line.name == "by function")
    assert line.y[0] == pytest.approx(general["value"].item())
    coefficients = pd.read_csv(run.results / "coefficients.csv")
    assert len(coefficients) == sum(len(line.y) for line in solved.data)
    assert any("from least to most linear: " in text.value for text in app.markdown)

    lines = {line.name: line for line in figure.data if line.xaxis == "x"}
    assert lines["attention"].customdata is None and list(lines["whole MLP"].customdata[1]) == ["math", 1, None]
    point = ["math", 0, "general"]
    assert line.customdata[0] == lines["general neurons"].customdata[0] == point
    assert [line.customdata and line.customdata[0] for line in solved.data] == [  # attention, then the MLP
        *(None, None),
        *(["math", 0, None], ["code", 0, None]),
    ]
    general = open_classification(classified.results).neurons().query("layer == 0 and category == 'general'")
    shown = ("base", 0, general["neuron"].min(), "general", [0])  # groups are the base's
    assert click(app, "linearity_by_chance", point) == shown


def test_without_a_run_the_page_offers_one(tiny_cache: Path, open_page: OpenPage) -> None:
    app = open_page(PAGE, linearity_samples="60")
    assert app.button(key="linearity_run").label == "Measure linearity"
    assert any("60 texts of every category" in text.value for text in app.caption)
