"""The search for coefficients, on functions whose least value is known."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nmerge_core.evolution import Found, minimise


def found(objective, dimensions: int, evaluations: int, **options: Any) -> Found:
    settings: dict[str, Any] = {"low": -1.0, "high": 2.0, "seed": 0, "progress": lambda done: None}
    given = {**settings, **options}
    return minimise(lambda point, tick: objective(*point), dimensions, evaluations=evaluations, **given)


def points_of(evaluations: int, seed: int, change: Callable[[float], float] = float, dimensions: int = 2) -> list:
    tried = []

    def objective(*point: float) -> float:
        tried.append(point)
        return change(sum(coordinate**2 for coordinate in point))

    found(objective, dimensions, evaluations, seed=seed)
    return tried


@pytest.mark.parametrize("dimensions", [1, 2, 12])
def test_points_are_inside_the_bounds_and_of_the_right_length(dimensions: int) -> None:
    points = points_of(40, 0, dimensions=dimensions)
    assert all(len(point) == dimensions and all(-1 <= x <= 2 for x in point) for point in points)
    assert points[0] == (0.5,) * dimensions and len(set(points)) > 35  # from the middle


def test_coordinates_keep_their_order() -> None:
    """Of twelve, whose names Optuna sorts."""
    best = found(lambda *point: sum((x - n / 12) ** 2 for n, x in enumerate(point)), 12, 600)
    assert best.point == pytest.approx([n / 12 for n in range(12)], abs=0.1)


def test_the_seed_decides_and_numpys_own_generator_is_left_alone() -> None:
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    assert points_of(30, 1) == points_of(30, 1) != points_of(30, 2)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]


def test_only_the_order_of_the_values_counts() -> None:
    assert points_of(40, 4) == points_of(40, 4, lambda value: math.exp(value) - 7)


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

    result = minimise(objective, 2, low=-1.0, high=2.0, evaluations=9, seed=0, progress=told.append)
    assert tried[0] == [0.5, 0.5] and len(tried) == len(result.history) == 9
    assert all(round(x, 4) == x for point in tried for x in point)
    assert result.value == min(result.history) and result.point == tried[result.history.index(result.value)]
    assert told == sorted(told) and told[0] == 0 and told[-1] == 9


def test_values_that_are_no_numbers_are_the_worst() -> None:
    result = found(lambda x, y: math.nan if x < 0.4 else (x - 0.5) ** 2 + y**2, 2, 150)
    assert result.point == pytest.approx([0.5, 0.0], abs=0.03)
    hopeless = found(lambda x, y: math.nan, 2, 20)
    assert hopeless.point == [0.5, 0.5] and math.isinf(hopeless.value)


def test_a_flat_function_is_searched_to_the_end() -> None:
    flat = found(lambda x, y: 1.0, 2, 60)
    assert len(flat.history) == 60 and flat.point == [0.5, 0.5]  # of equals the earliest
