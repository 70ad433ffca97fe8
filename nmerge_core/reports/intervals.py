"""Estimates with 95 % intervals over the problems that were scored; what is compared is of the same problems."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nmerge_core.paired import LEVEL, REPEATS

_LEAST = 6  # problems of a subject from which on draws of them tell what others would be
Values = Sequence[NDArray[np.float64]]  # of one model: a number per problem, an array per subject


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


def drawn_means(columns: Sequence[Values], seed: int = 0) -> NDArray[np.float64]:
    """Return each column's mean over subjects in draws of as many problems, with replacement, within each subject.

    All columns have the same problems in every draw, so that what is computed of several is paired.

    Args:
        columns: what several models scored on the same problems.
        seed: of the draws.

    Returns:
        (draws, columns).
    """
    rng, total = np.random.default_rng(seed), np.zeros((REPEATS, len(columns)))
    for own in zip(*columns, strict=True):  # each column's values of one subject
        values = np.stack(own, axis=1)  # (problems, columns)
        problems = len(values)
        total += rng.multinomial(problems, np.full(problems, 1 / problems), REPEATS) @ values / problems
    return total / len(columns[0])


def mean(values: Values) -> float:
    """Return the mean over subjects of their means over problems."""
    return float(np.mean([each.mean() for each in values]))


def combined(columns: Sequence[Values], weights: Sequence[float]) -> Estimate:
    """Estimate a weighted sum of means: of two, weighted 1 and −1, their difference."""
    draws = drawn_means(columns) @ np.array(weights)
    return _of_draws(columns, draws, float(np.dot([mean(each) for each in columns], weights)))


def ratio(columns: Sequence[Values], above: Sequence[float], below: Sequence[float]) -> Estimate:
    """Estimate a ratio of two weighted sums of means; its interval is all numbers where what is below may be 0."""
    draws = drawn_means(columns)
    over, under = draws @ np.array(above), draws @ np.array(below)
    means = np.array([mean(each) for each in columns])
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(np.dot(means, above) / np.dot(means, below))
        low, high = np.quantile(under, (LEVEL / 2, 1 - LEVEL / 2))
        if low <= 0 <= high:
            return Estimate(value, -np.inf, np.inf)
        return _of_draws(columns, over / under, value)


def _of_draws(columns: Sequence[Values], draws: NDArray[np.float64], value: float) -> Estimate:
    if min(len(each) for each in columns[0]) < _LEAST:
        return Estimate(value, -np.inf, np.inf)
    low, high = np.quantile(draws, (LEVEL / 2, 1 - LEVEL / 2))
    return Estimate(value, float(low), float(high))
