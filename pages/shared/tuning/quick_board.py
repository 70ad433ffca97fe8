"""What quick scores tell: which problems are to be scored next, and how a merge stands against what it is made of."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import pandas as pd

from nmerge_core.comparison.paired import Comparison, Interval, compare_all, mean_interval
from nmerge_core.figures.scores import Metric, metric

MERGE = "This merge"
BEST = "the best of each row"
COMPARED = ("Verdict", "Against", "Difference", "95 %", "Could show")


@dataclass(frozen=True)
class Row:
    """Problems of a task, or texts of a category, of which the first `count` are scored; `source` is the worker's."""

    name: str
    metric: str
    higher_is_better: bool
    count: int
    source: str
    said: str = ""

    @property
    def key(self) -> str:
        """What tells these problems from all others."""
        return f"{self.name} {self.source}"

    @property
    def title(self) -> str:
        """The name with the metric, which tells a task from a category of the same name."""
        return f"{self.name} · {self.metric}"


@dataclass(frozen=True)
class Scored:
    """What a model scored on the first problems of a row; of means over tokens, how many tokens each has.

    Of problems that share documents `clusters` names each one's.
    """

    values: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()
    run_dtype: str = ""
    clusters: tuple[str, ...] = ()

    def plus(self, answer: Mapping[str, Any]) -> "Scored":
        """Add what was scored next."""
        values, tokens = (*self.values, *answer["values"]), (*self.tokens, *answer["tokens"])
        return Scored(values, tokens, answer["run_dtype"], (*self.clusters, *answer["clusters"]))

    def first(self, count: int) -> "Scored":
        """Return what it scored on the first so many."""
        return Scored(self.values[:count], self.tokens[:count], self.run_dtype, self.clusters[:count])

    @property
    def mean(self) -> float:
        """The mean of what there is, which must be something."""
        return sum(self.values) / len(self.values)


Board = Mapping[str, Mapping[str, Scored]]  # by model, then by the title of a row; a merge is called `MERGE`


@dataclass(frozen=True)
class Standing:
    """How a merge stands in a row against one of the models that it is made of.

    `reason` says why there is no comparison though both were scored; `so_far` that more is to come, of either or of
    what may be the best.
    """

    row: Row
    scored: Mapping[str, Scored]
    against: str = ""
    comparison: Comparison | None = None
    reason: str = ""
    so_far: bool = False

    @property
    def better(self) -> bool:
        """Whether the merge's mean is the better one."""
        return self.comparison is not None and (self.comparison.difference > 0) == self.row.higher_is_better


def next_to_score(
    rows: Sequence[Row], models: Sequence[str], board: Board, failed: Collection[tuple[str, str]] = ()
) -> tuple[str, Row, int] | None:
    """Return which model to score next on which row, and from which problem on; None when all is scored.

    All of the first model comes first, and of its rows the one of which least was scored. What `failed`, by model and
    title of the row, is left out.
    """
    for model in models:
        own = board.get(model, {})
        left = [
            (done, row)
            for row in rows
            if (done := _scored_of(row, own)) < row.count and (model, row.title) not in failed
        ]
        if left:
            done, row = min(left, key=lambda each: each[0])
            return model, row, done
    return None


def standings(
    rows: Sequence[Row],
    parents: Sequence[str],
    board: Board,
    against: str = BEST,
    failed: Collection[tuple[str, str]] = (),
) -> list[Standing]:
    """Return how the merge stands in each row, its p values adjusted for the number of rows.

    Compared are the problems that the merge was scored on, with the parent that is chosen, or has the best mean of
    those that were scored on as many. What `failed`, by model and title of the row, is not waited for.
    """
    matter = [MERGE, *(parents if against == BEST else [against])]
    found = [
        replace(
            _opponent(row, parents, board, against),
            so_far=any(
                _scored_of(row, board.get(model, {})) < row.count
                for model in matter
                if (model, row.title) not in failed
            ),
        )
        for row in rows
    ]
    both = [each for each in found if each.against and not each.reason]
    pairs = tuple(
        ((ours := each.scored[MERGE]).values, each.scored[each.against].first(len(ours.values)).values) for each in both
    )
    compared = iter(_compared(pairs, tuple(each.scored[MERGE].clusters or None for each in both)))
    return [replace(each, comparison=next(compared)) if each in both else each for each in found]


def _scored_of(row: Row, own: Mapping[str, Scored]) -> int:
    """How many problems of a row a model was scored on."""
    return len(own.get(row.title, Scored()).values)


def _opponent(row: Row, parents: Sequence[str], board: Board, against: str) -> Standing:
    """Choose whom a row's comparison is with, and say where the two do not compare."""
    scored = {model: own[row.title] for model, own in board.items() if row.title in own}
    if MERGE not in scored:
        return Standing(row, scored)
    ours = scored[MERGE]
    there = [model for model in parents if model in scored and len(scored[model].values) >= len(ours.values)]
    if against != BEST:
        there = [model for model in there if model == against]
    if not there:
        return Standing(row, scored)
    sign = 1 if row.higher_is_better else -1
    best = max(there, key=lambda model: sign * scored[model].first(len(ours.values)).mean)
    theirs = scored[best].first(len(ours.values))
    reason = ""
    if ours.tokens != theirs.tokens:
        reason = "other tokens"
    elif ours.run_dtype != theirs.run_dtype:
        reason = f"ran in {ours.run_dtype}, {best} in {theirs.run_dtype}"
    return Standing(row, scored, best, reason=reason)


@lru_cache(maxsize=256)
def _compared(
    pairs: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...], clusters: tuple[tuple[str, ...] | None, ...]
) -> list[Comparison]:
    return compare_all(pairs, clusters=clusters)


@lru_cache(maxsize=1024)
def interval(values: tuple[float, ...], clusters: tuple[str, ...] = ()) -> Interval:
    """Return the 95 % interval of the mean of some values, which may share documents."""
    return mean_interval(values, clusters=clusters or None)


def finished(found: Sequence[Standing]) -> dict[str, dict[str, Any]]:
    """Return the merge's score in each row that is complete, by its title: metric, value, low, high, problems."""
    done = [each for each in found if len(each.scored.get(MERGE, Scored()).values) == each.row.count]
    return {each.row.title: _summary(each.row, each.scored[MERGE]) for each in done}


def _summary(row: Row, scored: Scored) -> dict[str, Any]:
    ends = interval(scored.values, scored.clusters)
    return {
        "metric": row.metric,
        "value": scored.mean,
        "low": ends.low,
        "high": ends.high,
        "problems": len(scored.values),
    }


def points_of(found: Sequence[Standing]) -> pd.DataFrame:
    """Return what `figures.intervals.points` draws: a line per row and model that was scored."""
    return pd.DataFrame(
        [
            {"row": each.row.name, "model": model} | _summary(each.row, own)
            for each in found
            for model, own in each.scored.items()
        ]
    )


def table(found: Sequence[Standing], models: Sequence[str]) -> pd.DataFrame:
    """Write the standings for reading: a line per row, how the merge compares, then the mean of each other model."""
    return pd.DataFrame([_line(each, models) for each in found])


def _line(standing: Standing, models: Sequence[str]) -> dict[str, str]:
    known = metric(standing.row.metric)
    cells = {model: _cell(standing.row, standing.scored.get(model), known) for model in (MERGE, *models)}
    return {
        "": f"{standing.row.name} · {known.title}",
        MERGE: cells.pop(MERGE),
        **dict(zip(COMPARED, _comparison(standing, known), strict=True)),
        **cells,
    }


def _cell(row: Row, scored: Scored | None, known: Metric) -> str:
    if scored is None:
        return "–"
    so_far = "" if len(scored.values) == row.count else f" ({len(scored.values)} of {row.count})"
    return known.write(scored.mean) + so_far


def _comparison(standing: Standing, known: Metric) -> tuple[str, ...]:
    """Write what stands under `COMPARED`."""
    found = standing.comparison
    if found is None:
        return standing.reason or "–", standing.against or "–", "–", "–", "–"
    few, unit = math.isnan(found.detectable), " points" if known.share else ""
    verdict = "too few problems" if few else "not told apart"
    if found.distinguishable:
        verdict = "better" if standing.better else "worse"
    return (
        f"{verdict} so far" if standing.so_far else verdict,
        standing.against,
        known.change(found.difference) + unit,
        f"{known.change(found.interval.low)} to {known.change(found.interval.high)}",
        "–" if few else known.change(found.detectable).removeprefix("+") + unit,
    )
