"""Scores and losses from a notebook: tables, figures and paired comparisons."""

from pathlib import Path

import pytest

import nmerge_core as nm
from nmerge_core import face
from nmerge_core.errors import InputError
from nmerge_core.face.losses import Losses
from nmerge_core.figures import style
from tests.face.conftest import states

FUNCTIONS = face.__all__


def test_models_are_called_as_a_mapping_says(family, cache, found):
    models = {"base": family.base, "reckoner": Path(family.math)}
    called = nm.classify(models, family.corpus, top_k=3, progress=False)
    assert called.paths == found.paths and list(called.counts())[2:4] == ["base", "reckoner"]
    assert nm.compare({"first": found.paths[0], "second": found.paths[1]}).labels == ("first", "second")
    assert list(nm.inspect(models).models["label"]) == ["base", "reckoner"]
    cosines = nm.cosine(family.base, {"reckoner": family.math}, progress=False)
    assert set(cosines.table["model"]) == set(cosines.moved["model"]) == {"reckoner"}
    assert {line.name for line in cosines.figure().data} == {"reckoner"}
    scores = nm.evaluate(models, family.task, limit=2, progress=False)
    assert list(scores.scores["model"].unique()) == list(scores.table["model"]) == ["base", "reckoner"]
    assert list(scores.leaderboard.index) == ["base", "reckoner"] and list(scores.leaderboard) == list(
        scores.leaderboard.filter(like="plain · bits per byte")
    )
    compared = scores.compare("base")
    assert list(compared["model"]) == ["reckoner"] and compared.loc[0, "test"] == "paired bootstrap"
    sides = scores.sides("plain", "reckoner")
    gain = (sides["value_ours"] - sides["value_theirs"]).mean()
    assert len(sides) == 2 and compared.loc[0, "difference"] == pytest.approx(gain)
    with pytest.raises(InputError, match="'sums': expected one of plain"):
        scores.sides("sums", "reckoner")
    said = nm.generate(models, "2 + 2 =", max_new_tokens=3)
    assert list(said) == ["base", "reckoner"] and all(isinstance(text, str) for text in said.values())


def test_a_model_that_was_scored_before_is_not_scored_again_beside_others(family, cache):
    alone = nm.evaluate(family.code, family.task, limit=3, progress=False)
    before = states(cache)
    both = nm.evaluate([family.base, family.code], family.task, limit=3, progress=False)
    assert both.paths[1:] == alone.paths and before.items() <= states(cache).items()
    assert len(states(cache)) == len(before) + 1


def test_losses_are_compared_text_by_text(family, cache, merged):
    corpus = f"{family.corpus}[:-6]"
    found = nm.loss({"base": family.base, "math": family.math, "merge": merged}, corpus, progress=False)
    texts = found.texts.set_index(["model", "category", "text"])["loss"].sort_index()
    assert list(found.table["texts"]) == [6] * 9 and set(found.texts["tokens"]) == {14, 15, 17, 18}
    own = found.table.set_index(["model", "category"]).loc[("math", "code")]
    assert own["loss"] == pytest.approx(texts["math", "code"].mean()) and own["low"] < own["loss"] < own["high"]
    compared = found.compare().set_index(["model", "category"])
    assert list(compared.index.get_level_values(0)) == ["math"] * 3 + ["merge"] * 3
    expected = (texts["merge", "math"] - texts["base", "math"]).mean()
    assert compared.at[("merge", "math"), "difference"] == pytest.approx(expected)
    assert (compared["adjusted"] >= compared["p"]).all()
    assert len(found.figure().data) == 3 and found.figure().data[0].marker.color[2] == style.MERGE
    assert nm.loss(family.base, corpus, progress=False).paths == found.paths[:1]
    with pytest.raises(InputError, match="baseline 'best': expected one of base, math, merge"):
        found.compare("best")


def test_losses_that_are_no_match_are_not_compared(tmp_path):
    for model, tokens, run_dtype in (("base", 5, "float32"), ("math", 6, "float32"), ("code", 5, "bfloat16")):
        (tmp_path / model).mkdir()
        table = f"model,category,text,loss,tokens,run_dtype\n{model},general,0,1.5,{tokens},{run_dtype}\n"
        (tmp_path / model / "losses.csv").write_text(table)

    def compare(model):
        return Losses((tmp_path / "base", tmp_path / model), ("base", model)).compare()

    with pytest.raises(InputError, match="math, general: expected the tokens of base, found others"):
        compare("math")
    with pytest.raises(InputError, match="code, general: expected losses in float32, as those of base, found bfloat16"):
        compare("code")


def test_a_merge_has_the_colour_of_merges_among_scores(family, merged):
    scores = nm.evaluate({"base": family.base, "mine": merged}, family.task, limit=2, progress=False)
    [bars] = [trace for trace in scores.figure().data if trace.type == "bar"]
    assert list(bars.marker.color) == [style.base_colour(), style.MERGE]
