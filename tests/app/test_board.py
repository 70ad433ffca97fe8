"""Many models on the Evaluate page: filtered, sorted, pinned, with their parameters; and what was scored elsewhere."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nmerge_core.candidates import CandidateLog
from nmerge_core.comparison.score_tables import read_scores
from nmerge_core.family import load_family
from nmerge_core.merging.engine import load
from nmerge_core.runs.tints import merge_tints
from pages.shared.evaluate.elsewhere import elsewhere
from pages.shared.evaluate.view import View
from tests.app.conftest import OpenPage
from tests.app.scored import FAMILY, done, drawn, make_family, models
from tests.app.test_evaluate import PAGE, choosing
from tests.app.test_knockout import parameters as knocked_out

KINDS = {"base": "base", "math": "fine-tune", "A": "TIES-Merging", "B": "DARE", "C of math": "TIES-Merging"}


@pytest.mark.parametrize(
    ("view", "shown"),
    [
        (View(), [*KINDS]),
        (View("ties math"), ["C of math"]),  # every word, in the name or the method
        (View("MATH"), ["math", "C of math"]),
        (View(kinds=("TIES-Merging", "base")), ["base", "A", "C of math"]),
        (View("nobody", pinned=("B", "base")), ["base", "B"]),  # whatever else is asked for, in their order
        (View(kinds=("TIES-Merging",), pinned=("C of math",)), ["C of math", "A"]),
    ],
)
def test_what_is_shown_of_many_models(view: View, shown: list[str]) -> None:
    assert view.names(KINDS) == shown


def merged(root: Path, weight: float, title: str) -> str:
    """The folder of a merge of the tiny models, by task arithmetic."""
    known = models(root)
    asked = {"merge_method": "task_arithmetic", "base_model": known["base"], "parameters": {"lambda": weight}}
    of = {"models": [{"model": known[name]} for name in ("math", "code")]}
    run = done(root, "merge", {"recipe": asked | of}, title)
    return str(run.results / "merged")


def test_models_are_filtered_sorted_and_pinned_in_table_and_figures(tiny_cache: Path, open_page: OpenPage) -> None:
    task, known = choosing(tiny_cache), models(tiny_cache)
    for number in (1, 2):
        known[f"Sum {number}"] = merged(tiny_cache, number / 2, f"Sum {number}")
    scores = {}
    for name, reference in known.items():
        run = done(tiny_cache, "evaluate", {"models": [reference], "tasks": [task]})
        scores[name] = float(read_scores(run.results / "scores.csv").loc[0, "value"])
    done(tiny_cache, "evaluate", {"models": [known["base"]], "tasks": [task], "limit": 10})
    app = open_page(PAGE, family="choosing")
    app.multiselect(key="evaluate_models").set_value([*known]).run()
    app.selectbox(key="evaluate_sorted").set_value("choices · accuracy, %").run()
    app.multiselect(key="evaluate_pinned").set_value(["math"]).run()
    assert not app.exception
    table = app.dataframe[0].value
    rest = sorted((name for name in known if name != "math"), key=lambda name: -scores[name])
    assert table.index[0] == "math"
    assert [scores[name] for name in table.index[1:]] == [scores[name] for name in rest]
    assert list(drawn(app).data[0].y) == list(table.index)
    assert list(table).index("λ") < list(table).index("Method")  # which both have alike
    assert table.loc[["Sum 1", "Sum 2", "base"], "λ"].tolist() == ["0.5", "1", ""]
    app.text_input(key="evaluate_words").set_value("task arithmetic").run()
    table = app.dataframe[0].value
    assert set(table.index) == {"math", "Sum 1", "Sum 2"} and list(drawn(app).data[0].y) == list(table.index)
    differences = next(frame.value for frame in app.dataframe if "Verdict" in frame.value)
    assert set(differences["Model"]) == {"math", "Sum 1", "Sum 2"}
    assert any("Adjusted over all 4 comparisons" in text.value for text in app.caption)
    app.text_input(key="evaluate_words").set_value("").run()
    [found] = [frame.value for frame in app.dataframe if "Not compared" in frame.value]
    assert found.index[found["Not compared"] == "problems 10 against 12"].tolist() == ["base"]
    tints = merge_tints()
    assert tints[known["Sum 1"]] != tints[known["Sum 2"]]


def test_scores_of_other_pages_are_found_and_labelled(tiny_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NMERGE_CACHE", str(tiny_cache))
    task, known = make_family(tiny_cache), models(tiny_cache)
    done(tiny_cache, "knockout", knocked_out(tiny_cache, proportions=[1.0], repeats=1, limit=2, layers=[1]), "Knocked")
    recipe = {"merge_method": "linear", "models": [{"model": known["math"]}, {"model": known["code"]}]}
    search = {"models.0.parameters.weight": [0.5, 1.0]}
    sweep = {"recipe": recipe, "search": search, "tasks": [task], "limit": 3, "keep": "none"}
    done(tiny_cache, "sweep", {"sweep": sweep}, "Swept")
    family = load_family(tiny_cache / "families" / f"{FAMILY}.yaml")
    log = CandidateLog(tiny_cache, FAMILY)
    score = {"metric": "bits_per_byte", "value": 2.5, "low": 2.0, "high": 3.0, "problems": 2}
    log.learn(log.visit(load(recipe).yaml).number, "scores", {"plain · bits_per_byte": score})
    found = elsewhere({"base": known["base"]}, family, ["plain"], None)
    made = {each.made: each for each in found}
    knocked, quick = made["Knock-out, intact: Knocked"], made["Merge: quick score"]
    assert (knocked.model, knocked.problems) == ("base", 2)
    assert made["Sweep: Swept"].problems == 3 and sum(each.made == "Sweep: Swept" for each in found) == 2
    assert quick.row["Score"] == "2.50 [2.00, 3.00]" and quick.model.startswith("#")
    assert all(each.otherwise for each in found)
    assert elsewhere({"base": known["base"]}, family, ["another"], None) == []


def test_of_a_knock_out_that_keeps_a_category_alone_the_intact_model_is_told(
    tiny_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its share 0 is a model with nothing of the layers left, and not the whole one."""
    monkeypatch.setenv("NMERGE_CACHE", str(tiny_cache))
    base = models(tiny_cache)["base"]
    asked: dict[str, Any] = {"proportions": [1.0], "repeats": 1, "limit": 2, "layers": [0, 1]}
    runs = {
        title: done(tiny_cache, "knockout", knocked_out(tiny_cache, **asked, keep_only=kept), title)
        for title, kept in (("Kept alone", True), ("Switched off", False))
    }
    table = pd.read_csv(runs["Kept alone"].results / "knockout.csv").set_index("group")["value"]
    assert table["math"].iloc[0] != table["intact"]
    family = load_family(tiny_cache / "families" / f"{FAMILY}.yaml")
    told = {each.made: each.value for each in elsewhere({"base": base}, family, ["plain"], None)}
    assert told["Knock-out, intact: Kept alone"] == told["Knock-out, intact: Switched off"] == table["intact"]
