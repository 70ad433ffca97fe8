from pathlib import Path

import pandas as pd

from tests.app.conftest import OpenPage
from tests.app.scored import done, drawn, models

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
    figure, solved = drawn(app, 0), drawn(app, 1)
    assert {line.name for line in figure.data} >= {"attention", "whole MLP", "general neurons"}
    frame = pd.read_csv(run.results / "linearity.csv")
    attention = frame[(frame["model"] == "math") & (frame["submodule"] == "attention") & (frame["layer"] == 0)]
    line = next(line for line in figure.data if line.name == "attention")
    assert abs(line.y[0] - attention["value"].mean()) < 1e-9  # the mean over the nine α
    coefficients = pd.read_csv(run.results / "coefficients.csv")
    assert len(coefficients) == sum(len(line.y) for line in solved.data)
    assert any("from least to most linear: " in text.value for text in app.markdown)


def test_without_a_run_the_page_offers_one(tiny_cache: Path, open_page: OpenPage) -> None:
    app = open_page(PAGE, linearity_samples="60")
    assert app.button(key="linearity_run").label == "Measure linearity"
    assert any("60 texts of every category" in text.value for text in app.caption)
