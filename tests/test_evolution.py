"""CMA-ES as a generator, and the search that is built on it, on functions whose least value is known."""

import math
from typing import Any

import numpy as np
import pytest

from nmerge_core.evolution import Found, cma_es, minimise


def points_of(count: int, seed: int, dimensions: int = 2) -> list[list[float]]:
    strategy = cma_es([0.5] * dimensions, step=0.3, low=0.0, high=1.0, seed=seed)
    points = [next(strategy)]
    while len(points) < count:
        points.append(strategy.send(sum(coordinate**2 for coordinate in points[-1])))
    return points


def found(objective, dimensions: int, evaluations: int, **options: Any) -> Found:
    settings: dict[str, Any] = {"step": 0.3, "low": -1.0, "high": 2.0, "seed": 0, "progress": lambda done: None}
    start, given = [0.0] * dimensions, {**settings, **options}
    return minimise(lambda point, tick: objective(*point), start, evaluations=evaluations, **given)


@pytest.mark.parametrize("dimensions", [1, 2, 5])
def test_points_are_inside_the_bounds_and_of_the_right_length(dimensions: int) -> None:
    points = points_of(40, 0, dimensions)
    assert all(len(point) == dimensions and all(0 <= x <= 1 for x in point) for point in points)


def test_the_seed_decides_and_numpys_own_generator_is_left_alone() -> None:
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    assert points_of(30, 1) == points_of(30, 1) != points_of(30, 2)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]


def test_only_the_order_of_the_values_counts() -> None:
    one, other = (cma_es([0.5, 0.5], step=0.3, low=0.0, high=1.0, seed=4) for _ in range(2))
    point, same = next(one), next(other)
    for _ in range(40):
        value = (point[0] - 0.3) ** 2 + point[1]
        assert point == same
        point, same = one.send(value), other.send(math.exp(value) - 7)


def test_the_least_value_is_found() -> None:
    bowl = found(lambda x, y: (x - 0.7) ** 2 + 10 * (y + 0.2) ** 2, 2, 250)
    assert bowl.point == pytest.approx([0.7, -0.2], abs=0.01)
    assert found(lambda x: (x - 1.5) ** 2, 1, 120).point == pytest.approx([1.5], abs=0.01)
    corner = found(lambda x, y: -x - y, 2, 200)  # the bound is where it is best
    assert corner.point == pytest.approx([2.0, 2.0], abs=0.02)


def test_what_was_tried_is_what_is_told() -> None:
    tried: list[list[float]] = []
    told: list[int] = []

    def objective(point: list[float], tick) -> float:
        tried.append(point)
        tick()
        return abs(point[0] - 0.5)

    result = minimise(objective, [0.0, 0.0], step=0.3, low=-1.0, high=1.0, evaluations=9, seed=0, progress=told.append)
    assert tried[0] == [0.0, 0.0] and len(tried) == len(result.history) == 9
    assert all(round(x, 4) == x for point in tried for x in point)
    assert result.value == min(result.history) and result.point == tried[result.history.index(result.value)]
    assert told == sorted(told) and told[0] == 0 and told[-1] == 9


def test_values_that_are_no_numbers_are_the_worst() -> None:
    result = found(lambda x, y: math.nan if x < 0.4 else (x - 0.5) ** 2 + y**2, 2, 150)
    assert result.point == pytest.approx([0.5, 0.0], abs=0.03)
    hopeless = found(lambda x, y: math.nan, 2, 20)
    assert hopeless.point == [0.0, 0.0] and math.isinf(hopeless.value)


def test_a_flat_function_is_searched_to_the_end() -> None:
    flat = found(lambda x, y: 1.0, 2, 60)
    assert len(flat.history) == 60 and flat.point == [0.0, 0.0]  # of equals the earliest
