"""Whether something differs from random draws of its kind, measured on the same problems: Student's, by the spread."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from nmerge_core.comparison.paired import LEVEL, Clusters, standard_error

Draws = NDArray[np.float64]  # (draws, n): a number per problem of each


@dataclass(frozen=True)
class AgainstDraws:
    """A mean difference, own less random, its standard error, its 95 % interval and a two-sided p for none at all."""

    difference: float
    stderr: float
    low: float
    high: float
    p: float


def against_draws(own: Draws, random: Draws, clusters: Clusters = None) -> AgainstDraws:
    """Compare draws of one's own with random ones on the same n problems, of which several may share a document.

    SE² = SE² of the mean difference over problems + SE² of the own draws' mean + SE² of the random draws' mean, each
    from its spread; what problem and draw have together is in two of them. A single own draw, as a whole category is,
    has no spread: were its neurons no other than random ones, it would be one more random draw, of variance s² too;
    together they count s² (1 + 1/r) for r random draws. Of one random draw the spread is not known. Interval and p are
    Student's, their degrees of freedom by Welch and Satterthwaite; n problems that all go one way do so by chance
    once in 2ⁿ⁻¹, so that p is no less.
    """
    more = own.mean(0) - random.mean(0)  # (n,)
    units = len(set(clusters or range(len(more))))
    parts = [(standard_error(more, clusters), units - 1)]
    alone = math.sqrt(1 + len(random)) if len(own) == 1 else 1.0  # s √(1 + 1/r) is √(r + 1) times s / √r
    parts += [
        (times * standard_error(draws.mean(1)), len(draws) - 1)
        for draws, times in ((own, 1.0), (random, alone))
        if len(draws) > 1
    ]
    difference, stderr = float(more.mean()), math.hypot(*(part for part, _ in parts))
    half, p = _student(difference, stderr, sum(part**4 / freedom for part, freedom in parts if part > 0))
    p = min(1.0, max(2.0 ** (1 - units), p))
    return AgainstDraws(difference, stderr, difference - half, difference + half, p)


def _student(difference: float, stderr: float, squares: float) -> tuple[float, float]:
    """Return half the 95 % interval and the two-sided p; `squares` is the sum of SE⁴/ν over what the SE is made of."""
    if math.isnan(stderr):
        return math.nan, 1.0
    if not stderr:
        return 0.0, float(not difference)
    freedom = stderr**4 / squares
    return float(stdtrit(freedom, 1 - LEVEL / 2)) * stderr, 2 * float(stdtr(freedom, -abs(difference) / stderr))
