"""How much more a model loses without a category's neurons than without as many random ones, and how sure that is."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from nmerge_core.ablation.measuring import Reading, Readings
from nmerge_core.comparison.against_draws import against_draws
from nmerge_core.comparison.paired import holm


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

    Interval and p are those of `against_draws`, by the spread over problems and over draws.
    """
    if not all(reading.problems for reading in (intact, *own, *random)):
        return None
    ours, theirs = (np.array([each.problems for each in draws]) for draws in (own, random))  # (draws, n) each
    sign = 1 if intact.higher_is_better == kept else -1
    found = against_draws(sign * ours, sign * theirs, intact.clusters)
    return Effect(
        intact=float(np.mean(intact.problems)),
        own=float(ours.mean()),
        random=float(theirs.mean()),
        effect=found.difference,
        stderr=found.stderr,
        low=found.low,
        high=found.high,
        p=found.p,
        problems=ours.shape[1],
        draws=len(theirs),
    )


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
