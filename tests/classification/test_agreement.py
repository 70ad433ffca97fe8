"""How far two classifications agree, computed by hand, and on folders."""

import math

import numpy as np
import pytest
import torch

from nmerge_core.activations.store import open_classification
from nmerge_core.classification.agreement import agreement, agreement_of, kappa_interval
from nmerge_core.classification.classification import classify, compare, neuron_categories
from nmerge_core.errors import InputError
from tests.tiny import TEXTS, tiny_model, write_corpus


def test_by_hand():
    found = agreement_of(np.array([[20, 5], [10, 15]]), ["general", "math"])
    assert found.share == 0.7  # (20 + 15) / 50
    # p_e = (25 · 30 + 25 · 20) / 50² = 0.5, κ = (0.7 − 0.5) / (1 − 0.5)
    assert found.kappa == pytest.approx(0.4)
    assert found.iou.tolist() == pytest.approx([20 / 35, 15 / 30])
    assert found.counts.loc["general", "math"] == 5


def test_in_full_by_chance_and_where_nothing_can_be_said():
    assert agreement_of(np.diag([3, 4, 5]), list("abc")).kappa == 1.0
    assert agreement_of(np.outer([2, 6], [3, 1]), list("ab")).kappa == pytest.approx(0.0)  # independent
    alone = agreement_of(np.array([[7, 0], [0, 0]]), list("ab"))
    assert math.isnan(alone.kappa) and alone.share == 1.0 and alone.iou["a"] == 1.0 and math.isnan(alone.iou["b"])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One model classified by two corpora, another by the first, and one of fewer categories."""
    root = tmp_path_factory.mktemp("agreement")
    whole = write_corpus(root / "whole", TEXTS)
    other = write_corpus(root / "other", {name: [f"{text} {text}" for text in texts] for name, texts in TEXTS.items()})
    base, tuned = (tiny_model(root / str(seed), seed=seed, dtype=torch.bfloat16) for seed in (0, 1))
    made = {
        "base": (base, whole, None), "other": (base, other, None), "tuned": (tuned, whole, None),
        "fewer": (base, whole, ["math"]),
    }  # fmt: skip
    for name, (model, corpus, categories) in made.items():
        classify(model, corpus, root / f"{name}-neurons", top_k=3, categories=categories)
    return {name: open_classification(root / f"{name}-neurons") for name in made}


@pytest.mark.parametrize("second", ["other", "tuned"])
def test_of_folders(folders, second):
    found = agreement(folders["base"], folders[second], k=2)
    one, two = (neuron_categories(folders[name], k=2)["category"] for name in ("base", second))
    for category, iou in found.iou.items():
        either = ((one == category) | (two == category)).sum()
        assert iou == pytest.approx(((one == category) & (two == category)).sum() / either)
        assert found.counts.loc[category].sum() == (one == category).sum()
        assert found.counts[category].sum() == (two == category).sum()
    assert found.share == pytest.approx((one == two).mean()) and found.kappa < 1


def test_the_diagonal_is_the_intersection(folders):
    kept = compare([folders[name].folder for name in ("base", "tuned")], ["a", "b"]).groupby("category")["intersection"]
    found = agreement(folders["base"], folders["tuned"])
    assert {name: found.counts.loc[name, name] for name in found.counts} == kept.sum().to_dict()
    assert agreement(folders["base"], folders["base"]).kappa == 1.0


def test_other_categories_are_refused(folders):
    with pytest.raises(InputError, match=r"fewer-neurons: categories \['general', 'math'\], expected .*'code'"):
        agreement(folders["base"], folders["fewer"])


def test_the_interval_of_kappa_is_that_of_its_standard_error_where_there_are_many():
    # p_o = 0.8, p_e = 0.5, κ = 0.6; for even margins of two categories SE = √(p_o (1 − p_o) / N) / (1 − p_e) = 0.0253
    counts = np.array([[400, 100], [100, 400]])
    found = kappa_interval(counts)
    assert found.low == pytest.approx(0.6 - 1.96 * 0.0253, abs=0.006)
    assert found.high == pytest.approx(0.6 + 1.96 * 0.0253, abs=0.006)
    assert found == kappa_interval(counts) != kappa_interval(counts, seed=1)
    perfect = kappa_interval(np.diag([3, 4]))
    assert (perfect.low, perfect.high) == (1.0, 1.0)
    assert np.isnan(kappa_interval(np.array([[5, 0], [0, 0]])).low)  # one category in both: there is no κ
