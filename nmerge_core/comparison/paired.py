"""Whether two models differ on the same problems: intervals, exact McNemar, paired bootstrap, Holm; in numpy alone.

Values are a number per problem, of both models in the same order. Numbers that are all 0 or 1 are right or wrong.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

Clusters = Sequence[object] | None  # the document of each problem, where several share one
LEVEL = 0.05
REPEATS = 10_000
Z_95, _Z_POWER = 1.959963984540054, 0.8416212335729143  # of 5 % on two sides, and of 80 % power
LEAST_DISCORDANT = 6  # problems, or documents, all one way: 2 · 2⁻⁶ is the first below 5 %
_DRAWN = 1 << 22  # numbers of a bootstrap that are drawn at once
MCNEMAR, BOOTSTRAP = "exact McNemar", "paired bootstrap"
WILSON, WILSON_SHARED, RESAMPLED = "Wilson", "Wilson, by documents", "bootstrap"  # what intervals of a mean are by


@dataclass(frozen=True)
class Interval:
    """A 95 % interval, and what it is `by`."""

    low: float
    high: float
    by: str = field(default="", compare=False)


@dataclass(frozen=True)
class Comparison:
    """How the mean of one model's values differs from another's, on `problems`.

    `p` is two-sided, by itself; `adjusted` among all that were compared at once. `detectable` is the smallest
    difference that so many problems, with as much disagreement, show with 80 % power at 5 %; NaN where they show none.
    """

    problems: int
    difference: float
    interval: Interval
    p: float
    adjusted: float
    detectable: float
    test: str

    @property
    def distinguishable(self) -> bool:
        """Whether the two differ by more than chance, at 5 % over all that were compared at once."""
        return self.adjusted < LEVEL


def mean_interval(values: ArrayLike, *, clusters: Clusters = None, seed: int = 0) -> Interval:
    """Return the 95 % interval of a mean: Wilson's of right or wrong, which holds near 0 and 1; else a bootstrap's.

    Where values share documents, `clusters` names each one's: a bootstrap is over these, and Wilson's interval is of as
    many problems as tell as much, one of each document, by the standard error over documents (Kish's effective number);
    of as many as there are documents where they do not differ. A bootstrap has no length at 0 and 1.
    """
    own, shared = _numbers(values), _shared(clusters)
    if not _binary(own):
        return _percentiles(_resampled(own, shared, seed))
    if shared is None:
        return wilson(int(own.sum()), len(own))
    share, spread = float(own.mean()), standard_error(own, shared)
    units = min(share * (1 - share) / spread**2, len(own)) if spread > 0 else len(set(shared))
    return replace(wilson(share * units, units), by=WILSON_SHARED)


def wilson(successes: float, trials: float) -> Interval:
    """Return Wilson's 95 % score interval of a share (1927): it has a length at 0 and 1 too; p ± 1.96 SE has none."""
    share, square = successes / trials, Z_95**2
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    half = Z_95 * math.sqrt(share * (1 - share) / trials + square / (4 * trials**2)) / (1 + square / trials)
    low, high = max(0.0, centre - half) if successes else 0.0, min(1.0, centre + half) if share < 1 else 1.0
    return Interval(low, high, WILSON)


def compare(ours: ArrayLike, theirs: ArrayLike, *, clusters: Clusters = None, seed: int = 0) -> Comparison:
    """Compare two models on the same problems; the difference is ours less theirs.

    Right or wrong: exact McNemar, and Newcombe's interval of a paired difference. Other values, and problems of which
    several share a document (`clusters` names each one's): paired bootstrap, over documents where they are shared.

    Raises:
        ValueError: there are no problems, or not as many on both sides.
    """
    one, other = _numbers(ours), _numbers(theirs)
    if one.shape != other.shape or (clusters is not None and len(clusters) != len(one)):
        raise ValueError(f"expected as many values on both sides, found {len(one)} and {len(other)}")
    difference = one - other
    shared = _shared(clusters)
    spread = standard_error(difference, clusters)
    if not _binary(one) or not _binary(other) or shared:
        means = _resampled(difference, shared, seed)
        # The bootstrap knows no other sign than it saw: n problems of one sign have that by chance once in 2ⁿ⁻¹.
        units = len(set(shared or range(len(difference))))
        p = min(1.0, max(2 * _tail(means), 2.0 ** (1 - units)))
        detectable = (Z_95 + _Z_POWER) * spread if units >= LEAST_DISCORDANT else math.nan
        return Comparison(len(one), float(difference.mean()), _percentiles(means), p, p, detectable, BOOTSTRAP)
    gained, lost = int((difference > 0).sum()), int((difference < 0).sum())
    least = LEAST_DISCORDANT / len(one)
    detectable = max((Z_95 + _Z_POWER) * math.sqrt((gained + lost) / len(one) / len(one)), least)
    interval = newcombe(int((one * other).sum()), gained, lost, int(((1 - one) * (1 - other)).sum()))
    p = mcnemar(gained, lost)
    shown = detectable if detectable <= 1 else math.nan
    return Comparison(len(one), float(difference.mean()), interval, p, p, shown, MCNEMAR)


def compare_all(
    pairs: Sequence[tuple[ArrayLike, ArrayLike]],
    *,
    clusters: Sequence[Clusters] | None = None,
    seed: int = 0,
) -> list[Comparison]:
    """Compare both sides of each pair, their p values adjusted for one another (`holm`); see `compare`."""
    documents = clusters or [None] * len(pairs)
    found = [
        compare(ours, theirs, clusters=own, seed=seed) for (ours, theirs), own in zip(pairs, documents, strict=True)
    ]
    adjusted = holm([each.p for each in found])
    return [replace(each, adjusted=p) for each, p in zip(found, adjusted, strict=True)]


def standard_error(values: ArrayLike, clusters: Clusters = None) -> float:
    """Return the standard error of a mean of values, which may come in clusters; NaN of a single one."""
    own = _numbers(values)
    sums, sizes = _sums(own, _shared(clusters))
    if len(sums) < 2:
        return math.nan
    residuals = sums - sizes * own.mean()
    return math.sqrt(len(sums) / (len(sums) - 1) * float((residuals**2).sum())) / len(own)


def mcnemar(gained: int, lost: int) -> float:
    """Return the two-sided p of exact McNemar: which model alone solves a problem is a fair coin if they are equal."""
    discordant, tail, ways = gained + lost, 0, 1
    for k in range(min(gained, lost) + 1):
        tail += ways
        ways = ways * (discordant - k) // (k + 1)  # binomial(discordant, k + 1), a whole number of any size
    return min(1.0, 2 * tail / 2**discordant)


def newcombe(both: int, ours: int, theirs: int, neither: int) -> Interval:
    """Return the 95 % interval of a difference of paired shares (Newcombe 1998, method 10, of Wilson's intervals)."""
    problems = both + ours + theirs + neither
    first, second = both + ours, both + theirs
    one, other = first / problems, second / problems
    own, their = wilson(first, problems), wilson(second, problems)
    product = float(both * neither - ours * theirs)
    if product > 0:
        product = max(product - problems / 2, 0.0)
    margins = first * (problems - first) * second * (problems - second)
    phi = product / math.sqrt(margins) if margins else 0.0

    def half(down: float, up: float) -> float:
        return math.sqrt(max(down**2 - 2 * phi * down * up + up**2, 0.0))

    difference = one - other
    return Interval(
        difference - half(one - own.low, their.high - other), difference + half(own.high - one, other - their.low)
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for as many comparisons (Holm 1979), in their order."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def _numbers(values: ArrayLike) -> NDArray[np.float64]:
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or not len(found):
        raise ValueError(f"expected a value for each of some problems, found an array of shape {found.shape}")
    return found


def _binary(values: NDArray[np.float64]) -> bool:
    return bool(np.isin(values, (0, 1)).all())


def _shared(clusters: Clusters) -> Clusters:
    """Return the clusters where any is of several values, else None: each value stands for itself."""
    return clusters if clusters is not None and len(set(clusters)) < len(clusters) else None


def _sums(values: NDArray[np.float64], clusters: Clusters) -> tuple[NDArray[np.float64], ...]:
    """Return the sum of values and their number, per cluster: (units,) each."""
    if clusters is None:
        return values, np.ones_like(values)
    place = {name: index for index, name in enumerate(dict.fromkeys(clusters))}
    index = np.array([place[name] for name in clusters])
    return np.bincount(index, values).astype(np.float64), np.bincount(index).astype(np.float64)


def _resampled(values: NDArray[np.float64], clusters: Clusters, seed: int) -> NDArray[np.float64]:
    """Return the means of `REPEATS` draws of as many values, or clusters of them, with replacement."""
    sums, sizes = _sums(values, clusters)

    def parts() -> Iterator[NDArray[np.float64]]:
        rng, step = np.random.default_rng(seed), max(1, _DRAWN // len(sums))
        for start in range(0, REPEATS, step):
            drawn = rng.integers(len(sums), size=(min(step, REPEATS - start), len(sums)))  # (repeats, units)
            yield sums[drawn].sum(1) / sizes[drawn].sum(1)

    return np.concatenate(list(parts()))


def _percentiles(means: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(means, (LEVEL / 2, 1 - LEVEL / 2))
    return Interval(float(low), float(high), RESAMPLED)


def _tail(means: NDArray[np.float64]) -> float:
    """Return the share of means on the rarer side of 0, with the mean that was seen counted among them."""
    return (1 + min(int((means <= 0).sum()), int((means >= 0).sum()))) / (1 + len(means))
