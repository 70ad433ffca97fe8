"""By how much one merge is ahead of another in the mean of tasks, by hand."""

import math

import pandas as pd
import pytest

from nmerge_core.comparison.mean_difference import ahead

VALUES: dict[tuple[str, str], list[float]] = {  # of right answers more is better, of losses less
    ("a", "sums"): [1, 1, 0, 1],
    ("b", "sums"): [0, 1, 0, 1],
    ("a", "texts"): [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    ("b", "texts"): [1.5, 2.5, 3.5, 4.5, 5.5, 6.5],
}


def tables(values: dict[tuple[str, str], list[float]] = VALUES) -> tuple[pd.DataFrame, pd.DataFrame]:
    facts = {"sums": ("acc", True), "texts": ("loss", False)}
    scores = [
        {"model": model, "task": task, "metric": facts[task][0], "higher_is_better": facts[task][1]}
        for model, task in values
    ]
    samples = [
        {"model": model, "task": task, "metric": facts[task][0], "id": place, "value": value, "cluster": None}
        for (model, task), own in values.items()
        for place, value in enumerate(own)
    ]
    return pd.DataFrame(scores), pd.DataFrame(samples)


def test_the_mean_over_tasks_of_paired_differences() -> None:
    """Of sums 1, 0, 0, 0: mean 1/4, standard error √(3/4 · 4/3) / 4 = 1/4; of losses −1/2 each, 1/2 better, surely."""
    difference, interval = ahead(*tables(), "a", "b") or pytest.fail("they compare")
    assert difference == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert (interval.low, interval.high) == pytest.approx((0.375 - 1.96 / 8, 0.375 + 1.96 / 8), abs=1e-4)
    back, _ = ahead(*tables(), "b", "a") or pytest.fail("they compare")
    assert back == pytest.approx(-difference)
    weighted, interval = ahead(*tables(), "a", "b", {"sums": 3.0, "texts": 1.0}) or pytest.fail("they compare")
    assert weighted == pytest.approx(3 / 4 * 1 / 4 + 1 / 4 * 1 / 2)
    assert interval.high - weighted == pytest.approx(1.96 * 3 / 4 * 1 / 4, abs=1e-4)


def test_what_does_not_compare() -> None:
    one = {("a", "sums"): [1.0, 0.0], ("b", "sums"): [1.0]}
    assert ahead(*tables(one), "a", "b") is None  # other problems
    assert ahead(*tables({("a", "sums"): [1.0], ("b", "sums"): [0.0]}), "a", "b") is None  # a single one
    both_won = {("a", "sums"): [1.0, 1.0], ("b", "sums"): [0.0, 0.0]}
    assert ahead(*tables(both_won), "a", "b") is None  # an interval without width, of two problems: p is 1/2
    assert ahead(*tables({("a", "sums"): [1.0, 1.0], ("b", "sums"): [1.0, 1.0]}), "a", "b") is not None  # level
    scores, samples = tables()
    assert ahead(scores, samples.assign(cluster="a document"), "a", "b") is None  # of a single one
    together = {("a", "sums"): [math.nan] * 2, ("b", "sums"): [1.0, 0.0]}
    assert ahead(*tables(together), "a", "b") is None  # a metric of all problems together
    assert ahead(*tables(), "a", "b", {"sums": 1.0, "others": 1.0}) is None
    assert ahead(*tables({("a", "sums"): [1.0, 0.0]}), "a", "b") is None
