"""The order in which a sweep tries its points: generators that yield a point and are sent its objective.

Sent the objectives of trials that were finished before, a strategy goes on as if it had never stopped.
"""

from collections.abc import Callable, Generator, Sequence
from itertools import count, product
from typing import Any

import numpy as np

from nmerge_core.evolution import cma_es
from nmerge_core.search.axis import Axis

Strategy = Generator[dict[str, Any], float, None]


def grid(axes: Sequence[Axis], seed: int) -> Strategy:
    """Yield every combination of the values, those of the last key changing fastest."""
    for values in product(*(axis.values for axis in axes)):
        yield {axis.key: value for axis, value in zip(axes, values, strict=True)}


def random(axes: Sequence[Axis], seed: int) -> Strategy:
    """Yield points drawn evenly, without end; the n-th depends on the seed and n alone."""
    for number in count():
        yield _point(axes, np.random.default_rng([seed, number]).random(len(axes)).tolist())


def cma(axes: Sequence[Axis], seed: int) -> Strategy:
    """Yield points of CMA-ES in the cube of the axes' places, from its middle, without end; it makes objectives large.

    A list of values is divided evenly over its axis, in its order.
    """
    strategy = cma_es([0.5] * len(axes), step=0.3, low=0.0, high=1.0, seed=seed)
    places = next(strategy)
    while True:
        objective = yield _point(axes, places)
        places = strategy.send(-objective)


def _point(axes: Sequence[Axis], places: Sequence[float]) -> dict[str, Any]:
    return {axis.key: axis.at(place) for axis, place in zip(axes, places, strict=True)}


STRATEGIES: dict[str, Callable[[Sequence[Axis], int], Strategy]] = {"grid": grid, "random": random, "cma": cma}
