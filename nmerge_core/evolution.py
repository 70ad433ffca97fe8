"""CMA-ES as a loop that others drive: it yields points and is sent their values, so that it can be told old ones again.

The ranks of the values alone steer it: what does not change the order of the points does not change what is found.
"""

import math
import warnings
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np

_DECIMALS = 4  # of the points that `minimise` tries: a coefficient that a reader can copy


@dataclass(frozen=True)
class Found:
    """The best point, its value, and every value in the order of the evaluations (the start's first)."""

    point: list[float]
    value: float
    history: list[float]


def cma_es(
    start: Sequence[float], *, step: float, low: float, high: float, seed: int
) -> Generator[list[float], float, None]:
    """Yield points of [low, high]ⁿ without end; each is answered by its value, and smaller is better (Hansen 2016).

    Args:
        start: the n coordinates of the first distribution's mean.
        step: its standard deviation.
        low: the least value of a coordinate.
        high: the largest value of a coordinate.
        seed: decides every draw, together with the values that are sent; NaN counts as the worst value.
    """
    with warnings.catch_warnings():  # it misses matplotlib, which draws nothing here
        warnings.simplefilter("ignore")
        import cma

    dimensions = len(start)
    padded = [*start, *[(low + high) / 2] * (2 - dimensions)]  # it knows no space of one dimension
    draw = np.random.default_rng(seed).standard_normal
    options = {"bounds": [low, high], "randn": lambda *shape: draw(shape), "seed": math.nan}
    strategy = cma.CMAEvolutionStrategy(padded, step, options | {"verbose": -9, "verb_log": 0})
    while True:
        points = strategy.ask()
        values = []
        for point in points:
            value = yield [float(coordinate) for coordinate in point[:dimensions]]
            values.append(math.inf if math.isnan(value) else value)
        strategy.tell(points, values)


def minimise(
    objective: Callable[[list[float], Callable[[], None]], float],
    start: Sequence[float],
    *,
    step: float,
    low: float,
    high: float,
    evaluations: int,
    seed: int,
    progress: Callable[[int], None],
) -> Found:
    """Evaluate the start, then points of CMA-ES rounded to four decimals; the earliest of the best is found.

    Args:
        objective: the value of a point; it calls what it is given as often as it can (it may raise Cancelled).
        start: as in `cma_es`, like `step`, `low`, `high` and `seed`.
        step: in the coordinates' own unit.
        low: of every coordinate.
        high: of every coordinate.
        evaluations: of the objective, the start's included.
        seed: of the draws.
        progress: told how many evaluations are finished.
    """
    strategy = cma_es(start, step=step, low=low, high=high, seed=seed)
    best, least, history = list(start), math.inf, []
    point = list(start)
    for done in range(evaluations):

        def tick(done: int = done) -> None:
            progress(done)

        tick()
        value = objective(point, tick)
        history.append(value)
        if value < least:
            best, least = point, value
        drawn = strategy.send(value) if done else next(strategy)  # the start was no point of the strategy's
        point = [round(coordinate, _DECIMALS) for coordinate in drawn]
    progress(evaluations)
    return Found(best, least, history)
