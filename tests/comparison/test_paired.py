"""Paired comparisons against values computed by hand, or published."""

import math
from itertools import product

import numpy as np
import pytest

from nmerge_core.comparison.paired import (
    BOOTSTRAP,
    MCNEMAR,
    compare,
    compare_all,
    holm,
    mcnemar,
    mean_interval,
    newcombe,
    wilson,
)


def test_wilson_holds_at_the_ends():
    """Newcombe 1998 (Statistics in Medicine 17, 857), Table I: 81/263, 15/148, 0/20, 1/29."""
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (successes, trials), expected in published.items():
        found = wilson(successes, trials)
        assert (found.low, found.high) == pytest.approx(expected, abs=5e-5)
        turned = wilson(trials - successes, trials)
        assert (1 - turned.high, 1 - turned.low) == pytest.approx(expected, abs=5e-5)
    assert mean_interval([0] * 20) == wilson(0, 20)


def test_wilson_counts_documents_where_problems_share_them():
    """Documents that do not differ tell as much as one problem each; of those that do the standard error tells."""
    pairs = [number // 2 for number in range(40)]
    found = mean_interval([0] * 40, clusters=pairs)
    assert found == wilson(0, 20) and (found.by, found.low) == ("Wilson, by documents", 0)
    # Both of each pair right or both wrong: SE² = 20/19 · 20 · (2 · ½)² / 40² = 1/76, so p(1 − p) / SE² = 19 problems.
    halves, of_19 = mean_interval([1] * 20 + [0] * 20, clusters=pairs), wilson(9.5, 19)
    assert (halves.low, halves.high) == pytest.approx((of_19.low, of_19.high))
    # One right of each pair: no document differs from another. Hardly any does: they are never more than there are.
    assert mean_interval([1, 0] * 20, clusters=pairs) == wilson(10, 20)
    assert mean_interval([1, 0] * 19 + [1, 1], clusters=pairs) == wilson(21, 40)


def test_intervals_of_shared_documents_hold_near_one():
    """Of 300 draws of 20 documents of five problems, right nineteen times in twenty: a bootstrap holds in 85 %."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        share = rng.beta(
            0.95 * 7 / 3, 0.05 * 7 / 3, 20
        )  # of each document; correlation within one is 1 / (1 + 7/3) = 0.3
        values = (rng.random((20, 5)) < share[:, None]).astype(float).ravel()
        found = mean_interval(values, clusters=np.repeat(range(20), 5).tolist())
        held += found.low <= 0.95 <= found.high
    assert held >= 0.93 * 300


def test_mcnemar_is_a_fair_coin_on_what_one_alone_solves():
    """All sequences of n tosses are counted: those whose rarer side comes up at most as often as it did."""
    for gained, lost in ((0, 0), (1, 0), (5, 0), (6, 0), (2, 7), (3, 3)):
        rarer = [min(sum(tosses), gained + lost - sum(tosses)) for tosses in product((0, 1), repeat=gained + lost)]
        expected = sum(each <= min(gained, lost) for each in rarer) / len(rarer)
        assert mcnemar(gained, lost) == mcnemar(lost, gained) == pytest.approx(expected)
    assert mcnemar(6, 0) == 2 / 64 and mcnemar(5, 0) == 2 / 32
    assert 0 < mcnemar(6000, 5000) < 1e-20  # beyond what floats of binomials hold


def test_newcombes_interval_of_a_paired_difference():
    """Of 20, 12, 2 and 16: φ = (20 · 16 − 12 · 2 − 50/2) / √(32 · 18 · 22 · 28); all else is Wilson's."""
    phi = 271 / math.sqrt(32 * 18 * 22 * 28)
    one, other = wilson(32, 50), wilson(22, 50)
    down, up = 0.64 - one.low, other.high - 0.44
    assert newcombe(20, 12, 2, 16).low == pytest.approx(0.2 - math.sqrt(down**2 - 2 * phi * down * up + up**2))
    down, up = one.high - 0.64, 0.44 - other.low
    assert newcombe(20, 12, 2, 16).high == pytest.approx(0.2 + math.sqrt(down**2 - 2 * phi * down * up + up**2))
    nothing = newcombe(0, 0, 0, 54)  # no correlation is known: both ends are Wilson's of 0 in 54
    assert -nothing.low == nothing.high == pytest.approx(wilson(0, 54).high) == pytest.approx(0.0664, abs=5e-5)
    assert newcombe(12, 4, 9, 3).low == pytest.approx(-newcombe(12, 9, 4, 3).high)


def test_right_or_wrong_is_compared_by_mcnemar():
    ours, theirs = [1] * 8 + [0] * 2 + [1] * 10, [0] * 8 + [1] * 2 + [1] * 10
    found = compare(ours, theirs)
    assert (found.problems, found.difference, found.test) == (20, pytest.approx(0.3), MCNEMAR)
    assert found.p == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert found.detectable == pytest.approx((1.96 + 0.8416) * math.sqrt(0.5 / 20), rel=1e-4)
    same = compare([1, 0] * 5, [1, 0] * 5)
    assert same.p == 1 and same.interval.low < 0 < same.interval.high and same.detectable == 0.6
    assert math.isnan(compare([1, 0, 1, 1, 1], [1] * 5).detectable)  # five that differ would not be enough
    assert math.isnan(compare([1] * 6, [0] * 6).detectable)  # with so much disagreement it would be beyond 1


def test_other_values_are_compared_by_a_bootstrap_over_problems():
    """Three differences 1, 2, 3: of the 27 draws the means are 1 to 3, none on the other side of 0."""
    found = compare([2.5, 3.5, 4.5], [1.5, 1.5, 1.5])
    assert (found.difference, found.test, found.p) == (2, BOOTSTRAP, 0.25)  # 2 · 2⁻³: three of one sign by chance
    assert found.interval.low == pytest.approx(1) and found.interval.high == pytest.approx(3)
    assert math.isnan(found.detectable)  # whatever three problems say, p is not below 0.25
    six = compare([1.5, 2.5, 3.5] * 2, [0.5] * 6)  # differences 1, 2, 3 twice: variance 4/5, of a mean of six
    assert six.detectable == pytest.approx((1.96 + 0.8416) * math.sqrt(0.8 / 6), rel=1e-4)
    rng = np.random.default_rng(1)
    noise = rng.normal(size=400)
    wide = compare(noise + 5, rng.normal(size=400) * 0 + 5)
    half = 1.96 * noise.std(ddof=1) / 20
    assert wide.interval.high - wide.interval.low == pytest.approx(2 * half, rel=0.05)
    assert wide.p == pytest.approx(math.erfc(abs(noise.mean()) / (noise.std(ddof=1) / 20) / math.sqrt(2)), abs=0.03)
    assert compare(noise, noise).p == 1
    assert compare(noise + 1, noise, seed=3) == compare(noise + 1, noise, seed=3)


def test_problems_of_one_document_count_as_one():
    """Each document's difference five times over: as uncertain as the documents alone."""
    rng = np.random.default_rng(0)
    documents = rng.normal(0.2, 1, 40)
    alone = compare(documents, np.zeros(40))
    many = compare(np.repeat(documents, 5), np.zeros(200), clusters=[f"d{index // 5}" for index in range(200)])
    assert many.problems == 200 and many.detectable == pytest.approx(alone.detectable)
    assert many.interval.low == pytest.approx(alone.interval.low) and many.p == alone.p
    assert compare(np.repeat(documents, 5), np.zeros(200)).detectable < 0.5 * alone.detectable
    right = compare([1, 1, 1, 1, 0, 0], [0] * 6, clusters=[1, 1, 1, 1, 2, 2])
    assert right.test == BOOTSTRAP and right.p == 0.5 and math.isnan(right.detectable)  # two documents tell nothing


def test_holm_steps_down():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
    six, seven = [1] * 6 + [0], [1] * 7  # p is 2/64 and 2/128 alone, of two comparisons 2/64 both
    found = compare_all([(six, [0] * 7), (seven, [0] * 7)])
    assert [each.p for each in found] == [2 / 64, 2 / 128]
    assert [each.adjusted for each in found] == [2 / 64, 2 / 64] and all(each.distinguishable for each in found)
    assert not compare_all([(six, [0] * 7)] * 2)[0].distinguishable


def test_unequal_sides_are_refused():
    for ours, theirs in (([1], [1, 0]), ([], []), ([[1]], [[1]])):
        with pytest.raises(ValueError, match="expected"):
            compare(ours, theirs)
