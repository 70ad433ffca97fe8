"""By how much one of two merges is ahead of the other in the mean of several tasks, and how sure that is."""

import math
from collections.abc import Mapping

import pandas as pd

from nmerge_core.comparison.paired import LEAST_DISCORDANT, Z_95, Interval, standard_error
from nmerge_core.comparison.score_tables import primary


def ahead(
    scores: pd.DataFrame, samples: pd.DataFrame, ours: str, theirs: str, weights: Mapping[str, float] | None = None
) -> tuple[float, Interval] | None:
    """Return the weighted mean, over tasks, of how much better ours is than theirs, and its 95 % interval.

    It is taken problem by problem of each task's primary metric: of the mean differences d with standard errors s over
    the problems of each task, Σ w d ± 1.96 √Σ w² s², w in sum 1.

    Args:
        scores: of both (`score_tables.read_scores`).
        samples: of both (`score_tables.read_samples`).
        ours: the model that is looked at.
        theirs: the other.
        weights: what each task counts, those without one nothing; alike without any.

    Returns:
        None where they do not compare: other tasks or problems, a metric of all problems together, a single problem
        or document, or so few that all differ alike by chance.
    """
    rows = {(row["model"], row["task"]): row for row in primary(scores).to_dict("records")}
    tasks = [task for model, task in rows if model == ours]
    shares = {task: 1.0 for task in tasks} if weights is None else weights
    difference, square = 0.0, 0.0
    for task, weight in shares.items():
        row, share = rows.get((ours, task)), weight / sum(shares.values())
        if row is None or (theirs, task) not in rows:
            return None
        own = samples[(samples["task"] == task) & (samples["metric"] == row["metric"])]
        both = [own[own["model"] == name].drop_duplicates("id").set_index("id") for name in (ours, theirs)]
        if len(both[0]) < 2 or set(both[0].index) != set(both[1].index):
            return None
        values = both[0]["value"].astype(float) - both[1].loc[both[0].index, "value"].astype(float)
        if values.isna().any():
            return None
        clusters = list(both[0]["cluster"]) if both[0]["cluster"].notna().all() else None
        error = standard_error(values, clusters)
        few = len(set(clusters) if clusters else values) < LEAST_DISCORDANT
        if math.isnan(error) or (error == 0 and few and values.any()):
            return None
        difference += share * float(values.mean()) * (1 if row["higher_is_better"] else -1)
        square += (share * error) ** 2
    half = Z_95 * math.sqrt(square)
    return difference, Interval(difference - half, difference + half, "paired standard errors")
