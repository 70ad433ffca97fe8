"""How sure categories are: by hand, and against a vote in plain loops over corpora that are written out."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nmerge_core.classification.categories import categorise
from nmerge_core.classification.confidence import (
    confident_counts,
    count_kept,
    layer_confidence,
    neuron_confidence,
    redraw,
)

# Exemplars 0-1 are general (0), 2-3 math (1), 4-5 code (2).
LABELS = np.array([0, 0, 1, 1, 2, 2])


def of(scores: Any, labels: Any, stored: int, k: int, margin: int = 1) -> Any:
    """A classification of one layer, of which so many best exemplars are stored: scores (exemplars, neurons)."""
    scores = np.array(scores, float)
    ids = np.argsort(-scores, axis=0, kind="stable").T[:, :stored].astype(np.int32)  # (neurons, stored)
    return SimpleNamespace(
        layers=(0,),
        categories=("general", "math", "code")[: max(labels) + 1],
        exemplar_categories=np.array(labels),
        meta={"top_k": k, "margin": margin},
        top=lambda layer, k=None: (ids[:, :k], None),
        scores=lambda layer, neurons: scores[:, neurons],
    )


def test_an_exemplar_that_is_drawn_twice_votes_twice():
    # k = 3. The best are 2 (math), 4 (code), 3 (math), 0 (general): math leads 2 to 1 by one vote.
    ids = np.array([[2, 4, 3, 0]], np.int32)
    drawn = np.array(
        [
            [1, 1, 1, 1, 1, 1],  # 2, 4, 3: math 2, code 1: kept
            [1, 1, 2, 0, 1, 1],  # 2, 2, 4: math 2, code 1: kept
            [1, 1, 0, 2, 2, 0],  # 4, 4, 3: code 2, math 1: lost
            [2, 0, 0, 2, 1, 1],  # 4, 3, 3: math 2, code 1: kept
            [2, 0, 1, 1, 2, 0],  # 2, 4, 4: code 2, math 1: lost; 3 has no vote left
        ],
        np.int32,
    )
    kept, short = count_kept(ids, drawn, LABELS, 3, 3, 1, np.array([1]))
    assert (kept.tolist(), short.tolist()) == ([3], [False])
    # None of these has a lead of 2: with m = 2 the neuron is general, and is so in every draw.
    assert count_kept(ids, drawn, LABELS, 3, 3, 2, np.array([0]))[0].tolist() == [5]
    # Of 2 and 4 alone two were drawn in the first row, and k = 3 must vote.
    assert count_kept(ids[:, :2].copy(), drawn[:1], LABELS, 3, 3, 1, np.array([1]))[1].tolist() == [True]


def test_the_lead_is_a_share_of_the_votes():
    # Scores that fall from exemplar 2 on: 2, 3, 4, 5 are best: k = 3 gives math 2, code 1; k = 4 a draw.
    found = of([[0.2], [0.1], [9], [8], [7], [6]], LABELS, 6, k=3)
    assert layer_confidence(found, 0).lead.tolist() == [pytest.approx(1 / 3)]
    tied = layer_confidence(found, 0, k=4)
    assert (tied.lead.tolist(), tied.category.tolist()) == ([0], [0])


def test_support_is_the_chance_that_other_texts_give_the_category():
    # k = 1, general has 0 and 1, math has 2, and 0 > 2 > 1. General's two draws miss exemplar 0 in 1 of 4 cases:
    # then 2 is first, and the neuron is math. So the support is 3 / 4, known to 4 standard errors of 0.0043.
    found = of([[3.0], [1.0], [2.0]], [0, 0, 1], 3, k=1)
    (support,) = layer_confidence(found, 0, draws=10_000).support
    assert support == pytest.approx(0.75, abs=4 * 0.0043)
    assert layer_confidence(of([[3.0], [2.0]], [0, 1], 2, k=1), 0).support.tolist() == [1.0]  # one text each


def test_each_category_is_drawn_again_by_itself():
    drawn = redraw(np.array([0, 1, 1, 0, 2, 1]), 50, seed=3)
    assert drawn[:, [0, 3]].sum(1).tolist() == [2] * 50 and drawn[:, [1, 2, 5]].sum(1).tolist() == [3] * 50
    assert (drawn[:, 4] == 1).all() and drawn[:, 1].max() > 1
    assert np.array_equal(drawn, redraw(np.array([0, 1, 1, 0, 2, 1]), 50, seed=3))
    assert not np.array_equal(drawn, redraw(np.array([0, 1, 1, 0, 2, 1]), 50, seed=4))


@pytest.mark.parametrize(("stored", "k", "margin"), [(24, 5, 1), (6, 5, 2), (5, 5, 0), (1, 1, 1)])
def test_agrees_with_corpora_that_are_written_out(stored, k, margin):
    """Where too few exemplars are stored, too: equal scores are ordered by exemplar."""
    chance = np.random.default_rng(stored)
    labels = np.repeat([0, 1, 2], 8)
    scores = chance.integers(0, 40, (24, 30)).astype(float)
    found = of(scores, labels, stored, k, margin)
    ids = np.argsort(-scores, axis=0, kind="stable").T
    now, _ = categorise(ids, labels, 3, k, margin)
    kept = Counter[int]()
    for draw in redraw(labels, 40, seed=1):
        for neuron in range(30):
            corpus = [exemplar for exemplar in ids[neuron] for _ in range(draw[exemplar])]  # (24,), best first
            again, _ = categorise(np.array([corpus]), labels, 3, k, margin)
            kept[neuron] += int(again[0] == now[neuron])
    expected = [kept[neuron] / 40 for neuron in range(30)]
    assert layer_confidence(found, 0, draws=40, seed=1).support.tolist() == expected
    table = neuron_confidence(found, draws=40, seed=1)
    assert list(table) == ["layer", "neuron", "category", "lead", "support"]
    assert table["support"].tolist() == expected and 0 < min(expected) < max(expected)


def test_sure_neurons_are_counted_as_all_are():
    def table(categories: str, support: list[float]) -> pd.DataFrame:
        names = [{"g": "general", "m": "math"}[each] for each in categories]
        return pd.DataFrame(
            {"layer": [0, 0, 1, 1], "category": pd.Categorical(names, ["general", "math"]), "support": support}
        )

    base, tuned = table("gmmm", [0.9, 0.8, 0.7, 1.0]), table("gmgm", [0.5, 0.8, 0.9, 0.9])
    found = confident_counts({"base": base, "tuned": tuned}, 0.8)
    assert found.to_dict("list") == {
        "layer": [0, 0, 1, 1],
        "category": ["general", "math"] * 2,
        "base": [1, 1, 0, 1],  # the third is unsure
        "tuned": [0, 1, 1, 1],  # the first is
        "intersection": [0, 1, 0, 1],
    }
