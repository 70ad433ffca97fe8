"""How long measurements are told to take."""

from pathlib import Path

import pytest

from nmerge_core.merging.plan.kept import Measurement
from nmerge_core.reports.budget import BUDGETS
from nmerge_core.reports.effort import foreseen
from nmerge_core.reports.parameter import open_family
from nmerge_core.runs import here
from nmerge_core.runs.durations import report_seconds, seconds_of
from nmerge_core.runs.folder import Status, create
from tests.tiny import TEXTS, tiny_model, write_corpus


def test_it_grows_with_what_is_read_and_goes_by_the_last_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path / "cache"))
    model, corpus = tiny_model(tmp_path / "model"), write_corpus(tmp_path / "corpus", TEXTS)

    def told(samples: int, kind: str = "gram") -> float:
        asked = {"model": model, "corpus": corpus, "kind": kind, "categories": ["math"], "samples": samples}
        return seconds_of(Measurement("statistics", {**asked, "device": "auto"}))

    one, four = (told(samples) - 2 for samples in (1, 4))
    assert four == pytest.approx(4 * one) and told(9) == told(4)  # there are four texts
    assert told(4, "fisher") > told(4)
    run = here.do(
        "statistics", {"model": model, "corpus": corpus, "kind": "gram", "categories": ["math"], "samples": 2}
    )
    seconds = run.status().seconds
    assert seconds and told(4) == pytest.approx(2 + 2 * seconds)


def test_a_report_is_told_by_the_speed_of_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "cache"
    monkeypatch.setenv("NMERGE_CACHE", str(root))
    base, math = (tiny_model(tmp_path / name, seed=seed) for seed, name in enumerate(("base", "math")))
    corpus = write_corpus(tmp_path / "corpus", TEXTS)
    bare = {"base": base, "models": {"math": math}}
    asked = {"family": bare | {"corpus": corpus}, "budget": "quick", "run_code": False, "device": "auto"}

    def told(budget: str = "quick") -> float:
        return report_seconds(asked | {"budget": budget}) - 2

    usual = told()
    assert 0 < usual < told("full")
    here.do("report", {"family": bare})  # judged by nothing: what its weights took tells of no model's speed
    assert told() == usual

    def made(key: str, scorings: float, seconds: float) -> None:
        run = create(root, "report", key, "a report", asked, {}, "0")
        run.results.mkdir()
        run.write_status(Status("done", total=scorings, seconds=seconds))

    total = foreseen(open_family(asked["family"]), BUDGETS["quick"], run_code=False).total
    made("whole", total, 500.0)
    assert told() == pytest.approx(500)
    made("rest", total / 4, 100.0)  # one that went on, with a quarter left to measure
    assert told() == pytest.approx(400)
    made("again", 1, 30.0)  # of which hardly anything was left
    assert told() == pytest.approx(400)
