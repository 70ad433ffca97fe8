"""How long measurements are told to take."""

from pathlib import Path

import pytest

from nmerge_core.merging.plan.kept import Measurement
from nmerge_core.runs import here
from nmerge_core.runs.durations import report_seconds, seconds_of
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
    monkeypatch.setenv("NMERGE_CACHE", str(tmp_path / "cache"))
    base, math = (tiny_model(tmp_path / name, seed=seed) for seed, name in enumerate(("base", "math")))
    family = {"base": base, "models": {"math": math}}  # judged by nothing: its weights are all that is measured
    asked = {"family": family, "budget": "quick", "run_code": False, "device": "auto"}
    assert report_seconds(asked) == pytest.approx(2, abs=0.1)  # a usual speed does that at once
    seconds = here.do("report", {"family": family}).status().seconds
    assert seconds and report_seconds(asked) == pytest.approx(2 + seconds)
    with_texts = family | {"corpus": write_corpus(tmp_path / "corpus", TEXTS)}
    quick, full = (report_seconds(asked | {"family": with_texts, "budget": budget}) for budget in ("quick", "full"))
    assert report_seconds(asked) < quick < full
