"""By how much a category's neurons matter more than random ones, and how sure that is."""

import math

import pytest
from scipy.stats import ttest_rel

from nmerge_core.ablation.effect import Compared, effect, effects_table
from nmerge_core.ablation.measuring import Reading


def score(*problems: float, better: bool = True, clusters: list[str] | None = None) -> Reading:
    return Reading(sum(problems) / max(len(problems), 1), better, list(problems), clusters)


def test_one_random_draw_is_a_paired_t_test_over_the_problems() -> None:
    """Random less own: 1, 0, 1, 1, 0 with mean 0.6 and SE √(0.3 / 5)."""
    own, random = score(0, 0, 0, 0, 1), score(1, 0, 1, 1, 1)
    found = effect(score(1, 1, 1, 1, 1), [own], [random])
    assert found is not None
    assert (found.intact, found.own, found.random, found.effect) == pytest.approx((1, 0.2, 0.8, 0.6))
    assert found.stderr == pytest.approx(math.sqrt(0.3 / 5))
    theirs = ttest_rel(random.problems, own.problems)
    assert found.p == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval()))
    assert (found.problems, found.draws) == (5, 1)


def test_the_spread_of_the_random_draws_is_in_the_error() -> None:
    """Means of the draws 0.5, 1.0 have s² = 0.125, and one own draw counts as one more: s² (1 + 1/2) = 0.1875.

    Over the problems all differences are 0.75.
    """
    intact = score(1, 1)
    found = effect(intact, [score(0, 0)], [score(0.5, 0.5), score(1, 1)])
    assert found is not None
    assert (found.effect, found.stderr) == pytest.approx((0.75, math.sqrt(0.1875)))
    # one degree of freedom: p = 1 − 2/π · atan(√3) = 1/3, but no less than 2⁻¹ for two problems that go one way
    assert found.p == 0.5 > 1 - 2 / math.pi * math.atan(math.sqrt(3))


def test_draws_of_the_category_count_as_well_and_both_errors_add_up() -> None:
    """Own means 0.25, 0.75: SE 0.25; random 0.5, 1: SE 0.25; problems: 0.25 ± 0; together √(2 / 16)."""
    found = effect(score(1, 1), [score(0.25, 0.25), score(0.75, 0.75)], [score(0.5, 0.5), score(1, 1)])
    assert found is not None and (found.effect, found.stderr) == pytest.approx((0.25, math.sqrt(2 / 16)))


@pytest.mark.parametrize(
    ("better", "kept", "expected"), [(True, False, 1), (False, False, -1), (True, True, -1), (False, True, 1)]
)
def test_its_sign_says_that_the_category_matters_more(better: bool, kept: bool, expected: int) -> None:
    """Own below random: off, that is worse where more is better; kept, it is better where less is better."""
    sides = [score(0, 0.1, better=better)], [score(1, 1.1, better=better)]
    found = effect(score(1, 1, better=better), *sides, kept=kept)
    assert found is not None and found.effect == pytest.approx(expected)


def test_problems_of_one_document_are_one() -> None:
    documents = ["a", "a", "b", "b"]
    sides = [score(0, 0, 1, 1, clusters=documents)], [score(1, 1, 1, 1, clusters=documents)]
    found = effect(score(1, 1, 1, 1, clusters=documents), *sides)
    assert found is not None
    assert found.stderr == pytest.approx(0.5)  # of two documents' means, 1 and 0


def test_what_is_the_same_for_all_problems_is_as_rare_as_so_many_heads() -> None:
    found = effect(score(1, 1, 1), [score(0, 0, 0)], [score(1, 1, 1)])
    assert found is not None and (found.stderr, found.p) == (0, 0.25)
    nothing = effect(score(1, 1, 1), [score(1, 1, 1)], [score(1, 1, 1)])
    assert nothing is not None and (nothing.effect, nothing.p) == (0, 1)


def test_a_single_problem_tells_nothing_and_a_metric_of_all_together_has_no_effect() -> None:
    found = effect(score(1), [score(0)], [score(1)])
    assert found is not None and found.effect == 1 and math.isnan(found.low) and found.p == 1
    assert effect(score(), [score()], [score()]) is None
    assert effect(score(1, 2), [score()], [score(1, 2)]) is None  # no finite value of some problem


def test_p_is_adjusted_over_the_comparisons_of_a_metric() -> None:
    intact, random = score(1, 1, 1, 1, 1, 1), score(1, 1, 1, 1, 1, 1)
    off = [score(0, 0, 0, 0, 0, 0), score(0, 0, 0, 0, 0, 1)]
    compared = [Compared({"layer": layer}, [{"acc": own}], [{"acc": random}]) for layer, own in enumerate(off)]
    table = effects_table({"acc": intact}, compared)
    first, second = table["p"]
    assert first == 2.0**-5 and second == 2.0**-5 > ttest_rel(off[1].problems, random.problems).pvalue
    assert list(table["adjusted"]) == [2 * first, 2 * first] and list(table["layer"]) == [0, 1]
    assert list(
        effects_table({"all": score()}, [Compared({"layer": 0}, [{"all": score()}], [{"all": score()}])]).columns
    ) == list(table.columns)
