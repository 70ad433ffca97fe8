"""How much more a model loses without a category's neurons than without as many random ones, and how sure that is."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from nmerge_core.ablation.measuring import Reading, Readings
from nmerge_core.paired import LEVEL, holm, standard_error


@dataclass(frozen=True)
class Effect:
    """Means over problems of the intact model, of it without (or with no other than) the `own` neurons and random ones.

    `effect` is by how much the own neurons matter more, in the metric's unit: positive where the model is worse without
    them than without the random ones, or better with them alone. `p` is two-sided, for no difference at all.
    """

    intact: float
    own: float
    random: float
    effect: float
    stderr: float
    low: float
    high: float
    p: float
    problems: int
    draws: int


def effect(intact: Reading, own: Sequence[Reading], random: Sequence[Reading], *, kept: bool = False) -> Effect | None:
    """Compare draws of the own neurons with random ones on the same problems; None for a metric of all together.

    SE² = SE² of the mean difference over problems + SE² of the own draws' mean + SE² of the random draws' mean, each
    from its spread; what problem and draw have together is in two of them. A single own draw, as the whole category is,
    has no spread: were its neurons no other than random ones, it would be one more random draw, of variance s² too;
    together they count s² (1 + 1/r) for r random draws. Of one random draw the spread is not known. Interval and p are
    Student's, their degrees of freedom by Welch and Satterthwaite; n problems that all go one way do so by chance
    once in 2ⁿ⁻¹, so that p is no less.
    """
    if not all(reading.problems for reading in (intact, *own, *random)):
        return None
    ours, theirs = (np.array([each.problems for each in draws]) for draws in (own, random))  # (draws, n) each
    sign = 1 if intact.higher_is_better == kept else -1
    more = sign * (ours.mean(0) - theirs.mean(0))  # (n,)
    units = len(set(intact.clusters or range(len(more))))
    parts = [(standard_error(more, intact.clusters), units - 1)]
    alone = math.sqrt(1 + len(theirs)) if len(ours) == 1 else 1.0  # s √(1 + 1/r) is √(r + 1) times s / √r
    parts += [
        (times * standard_error(draws.mean(1)), len(draws) - 1)
        for draws, times in ((ours, 1.0), (theirs, alone))
        if len(draws) > 1
    ]
    difference, stderr = float(more.mean()), math.hypot(*(part for part, _ in parts))
    half, p = _student(difference, stderr, sum(part**4 / freedom for part, freedom in parts if part > 0))
    return Effect(
        intact=float(np.mean(intact.problems)),
        own=float(ours.mean()),
        random=float(theirs.mean()),
        effect=difference,
        stderr=stderr,
        low=difference - half,
        high=difference + half,
        p=min(1.0, max(2.0 ** (1 - units), p)),
        problems=len(more),
        draws=len(theirs),
    )


def _student(difference: float, stderr: float, squares: float) -> tuple[float, float]:
    """Return half the 95 % interval and the two-sided p; `squares` is the sum of SE⁴/ν over what the SE is made of."""
    if math.isnan(stderr):
        return math.nan, 1.0
    if not stderr:
        return 0.0, float(not difference)
    freedom = stderr**4 / squares
    return float(stdtrit(freedom, 1 - LEVEL / 2)) * stderr, 2 * float(stdtr(freedom, -abs(difference) / stderr))


@dataclass(frozen=True)
class Compared:
    """What was measured of the same number of own neurons and of random ones; `facts` tell which, in columns."""

    facts: dict[str, Any]
    own: Sequence[Readings]
    random: Sequence[Readings]


def effects_table(intact: Readings, compared: Sequence[Compared], *, kept: bool = False) -> pd.DataFrame:
    """Return a row for each comparison and metric: the facts, metric, the fields of `Effect`, and `adjusted`.

    That is p by Holm over all comparisons of the metric.
    """
    rows = []
    for each in compared:
        for metric, whole in intact.items():
            sides = ([readings[metric] for readings in draws] for draws in (each.own, each.random))
            if (found := effect(whole, *sides, kept=kept)) is not None:
                rows.append(each.facts | {"metric": metric} | asdict(found))
    columns = [*compared[0].facts, "metric", *(each.name for each in fields(Effect))]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(adjusted=table.groupby("metric")["p"].transform(lambda own: holm(list(own))))
