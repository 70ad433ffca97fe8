from itertools import combinations

import numpy as np
import pytest

from nmerge_core.classification.categories import TOLERANCE, categorise, intersect, undecided
from nmerge_core.errors import InputError

# Exemplars 0-2 are general (0), 3-5 math (1), 6-8 code (2).
LABELS = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])


def test_most_frequent_category_of_the_top_k_wins():
    # k = 3: votes of 3, 4, 0 are math, math, general → math leads 2 to 1; the fourth exemplar does not vote.
    category, counts = categorise(np.array([[3, 4, 0, 1]]), LABELS, 3, k=3, margin=1)
    assert category.tolist() == [1]
    assert counts.tolist() == [[1, 2, 0]]


def test_a_lead_below_the_margin_is_general():
    ids = np.array([[3, 4, 6, 7], [3, 4, 5, 6], [6, 7, 8, 3]])  # math:code = 2:2, 3:1, 1:3
    assert categorise(ids, LABELS, 3, k=4, margin=1)[0].tolist() == [0, 1, 2]  # 0 < 1; 2 ≥ 1; 2 ≥ 1
    assert categorise(ids, LABELS, 3, k=4, margin=2)[0].tolist() == [0, 1, 2]  # 2 ≥ 2
    assert categorise(ids, LABELS, 3, k=4, margin=3)[0].tolist() == [0, 0, 0]  # 2 < 3


def test_margin_zero_gives_a_tie_to_the_first_category():
    assert categorise(np.array([[6, 7, 3, 4]]), LABELS, 3, k=4, margin=0)[0].tolist() == [1]


def test_agrees_with_a_plain_loop():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 40)
    ids = np.argsort(rng.random((200, 40)), axis=1)[:, :12]
    for k, margin in [(1, 0), (1, 1), (5, 1), (10, 2), (12, 3)]:
        category, counts = categorise(ids, labels, 4, k, margin)
        for neuron in range(200):
            votes = [0, 0, 0, 0]
            for exemplar in ids[neuron, :k]:
                votes[labels[exemplar]] += 1
            first, second = sorted(votes, reverse=True)[:2]
            assert counts[neuron].tolist() == votes
            assert category[neuron] == (votes.index(first) if first - second >= margin else 0)


def test_a_single_category_is_general():
    assert categorise(np.array([[0, 1]]), np.array([0, 0]), 1, k=2, margin=1)[0].tolist() == [0]


@pytest.mark.parametrize(("k", "margin"), [(0, 0), (5, 1), (2, 3), (2, -1)])
def test_parameters_out_of_range_are_refused(k, margin):
    with pytest.raises(InputError, match=r"top-k must be|margin must be"):
        categorise(np.array([[0, 1, 2, 3]]), LABELS, 3, k, margin)


def test_intersection_needs_the_same_category_in_every_model():
    base, math, code = np.array([0, 1, 2, 1]), np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2])
    assert intersect([base, math, code]).tolist() == [True, True, False, False]
    assert intersect([base]).tolist() == [True] * 4


def test_a_category_that_hangs_on_equal_scores_is_undecided():
    # k = 3. Votes of 3 (math), then two of the three equal ones 4 (math), 6 and 7 (code): math 2:1, or code 1:2.
    ids, values = np.array([[3, 4, 6, 7]]), np.array([[9.0, 5.0, 5.0, 5.0]])
    assert undecided(ids, values, LABELS, 3, k=3, margin=1).tolist() == [True]
    # Where the third of them is clearly lower math has two votes of three, whichever comes first.
    assert undecided(ids, np.array([[9.0, 5.0, 5.0, 4.9]]), LABELS, 3, k=3, margin=1).tolist() == [False]
    # Equal scores among the first k change nothing, nor do those of one category: 3, 4 and one of 6, 7.
    assert undecided(ids, np.array([[9.0, 9.0, 5.0, 5.0]]), LABELS, 3, k=3, margin=1).tolist() == [False]


def test_scores_count_as_equal_within_the_tolerance():
    ids = np.array([[3, 6]])  # k = 1: math, or code where the second may be first
    for gap, expected in ((0.5 * TOLERANCE, True), (2 * TOLERANCE, False)):
        values = np.array([[1.0, 1.0 - gap]])
        assert undecided(ids, values, LABELS, 3, k=1, margin=1).tolist() == [expected]


@pytest.mark.parametrize("margin", [0, 1, 2, 3])
@pytest.mark.parametrize("categories", [1, 2, 4])
def test_undecided_agrees_with_trying_every_order(margin, categories):
    rng = np.random.default_rng(margin)
    labels = np.repeat(np.arange(categories), 12 // categories)
    ids = np.array([rng.permutation(len(labels)) for _ in range(100)])
    values = -np.sort(-rng.integers(1, 6, ids.shape).astype(float), axis=1)
    k = 4
    expected = []
    for own, scores in zip(ids, values, strict=True):
        sure, tied = own[scores > scores[k - 1]], own[scores == scores[k - 1]]
        orders = [[*sure, *chosen] for chosen in combinations(tied, k - len(sure))]
        found = {int(categorise(np.array([order]), labels, categories, k, margin)[0][0]) for order in orders}
        expected.append(len(found) > 1)
    assert undecided(ids, values, labels, categories, k, margin).tolist() == expected
    assert any(expected) or categories == 1 or margin == 3
