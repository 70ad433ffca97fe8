"""Estimates with 95 % intervals over the problems that were scored; what is compared is of the same problems.

Where problems share documents, these are drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from nmerge_core.comparison.paired import LEVEL, REPEATS

_LEAST = 6  # problems of a subject, or documents, from which on draws of them tell what others would be
Values = Sequence[NDArray[np.float64]]  # of one model: a number per problem, an array per subject
Documents = Sequence[Sequence[str]]  # of every problem, by subject


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


def drawn_means(columns: Sequence[Values], documents: Documents | None, seed: int = 0) -> NDArray[np.float64]:
    """Return each column's mean over subjects in draws of as many documents, with replacement, within each subject.

    All columns have the same problems in every draw, so that what is computed of several is paired.

    Args:
        columns: what several models scored on the same problems.
        documents: those of the problems; each problem stands for itself if None.
        seed: of the draws.

    Returns:
        (draws, columns).
    """
    total = np.zeros((REPEATS, len(columns)))
    own_units = [range(len(own)) for own in columns[0]]  # each problem's
    numbered = [_units(each) for each in documents] if documents else [_units(each) for each in own_units]
    draws = _draws(tuple(int(units.max()) + 1 for units in numbered), seed)
    for own, units, drawn in zip(zip(*columns, strict=True), numbered, draws, strict=True):  # of one subject
        sums, sizes = np.zeros((drawn.shape[1], len(columns))), np.bincount(units)  # (units, columns), (units,)
        np.add.at(sums, units, np.stack(own, axis=1))  # (problems, columns)
        total += drawn @ sums / (drawn @ sizes)[:, None]
    return total / len(columns[0])


@lru_cache(maxsize=8)  # a report asks hundreds of times for the same few
def _draws(counts: tuple[int, ...], seed: int) -> tuple[NDArray[np.float64], ...]:
    """Return how often each unit is drawn in draws of as many, (draws, units) for each subject's count of units."""
    rng = np.random.default_rng(seed)
    return tuple(rng.multinomial(count, np.full(count, 1 / count), REPEATS).astype(float) for count in counts)


def _units(documents: Sequence[object]) -> NDArray[np.int64]:
    """Number the documents of problems from 0, in the order in which they come, (problems,)."""
    numbers = {document: number for number, document in enumerate(dict.fromkeys(documents))}
    return np.array([numbers[each] for each in documents])


def mean(values: Values) -> float:
    """Return the mean over subjects of their means over problems."""
    return float(np.mean([each.mean() for each in values]))


def combined(columns: Sequence[Values], weights: Sequence[float], documents: Documents | None = None) -> Estimate:
    """Estimate a weighted sum of means: of two, weighted 1 and −1, their difference."""
    draws = drawn_means(columns, documents) @ np.array(weights)
    value = float(np.dot([mean(each) for each in columns], weights))
    return _of_draws(columns, documents, draws, value)


def ratio(
    columns: Sequence[Values], above: Sequence[float], below: Sequence[float], documents: Documents | None = None
) -> Estimate:
    """Estimate a ratio of two weighted sums of means; its interval is all numbers where what is below may be 0."""
    draws = drawn_means(columns, documents)
    over, under = draws @ np.array(above), draws @ np.array(below)
    means = np.array([mean(each) for each in columns])
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(np.dot(means, above) / np.dot(means, below))
        low, high = np.quantile(under, (LEVEL / 2, 1 - LEVEL / 2))
        if low <= 0 <= high:
            return Estimate(value, -np.inf, np.inf)
        return _of_draws(columns, documents, over / under, value)


def _of_draws(
    columns: Sequence[Values], documents: Documents | None, draws: NDArray[np.float64], value: float
) -> Estimate:
    if min(len(set(each)) for each in documents) < _LEAST if documents else min(map(len, columns[0])) < _LEAST:
        return Estimate(value, -np.inf, np.inf)
    low, high = np.quantile(draws, (LEVEL / 2, 1 - LEVEL / 2))
    return Estimate(value, float(low), float(high))
