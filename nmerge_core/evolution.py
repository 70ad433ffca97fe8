"""CMA-ES over coefficients, by Optuna's sampler.

The ranks of the values alone steer it: what does not change the order of the points does not change what is found.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

_DECIMALS = 4  # of the points that are tried: a coefficient that a reader can copy


@dataclass(frozen=True)
class Found:
    """The best point, its value, and every value in the order of the evaluations (the start's first)."""

    point: list[float]
    value: float
    history: list[float]


def minimise(
    objective: Callable[[list[float], Callable[[], None]], float],
    dimensions: int,
    *,
    low: float,
    high: float,
    evaluations: int,
    seed: int,
    progress: Callable[[int], None],
) -> Found:
    """Evaluate the middle of [low, high]ⁿ, then points of CMA-ES around it; the earliest of the best is found.

    The first standard deviation is a sixth of the range (Hansen 2016; Optuna's). Points are rounded to four decimals.

    Args:
        objective: the value of a point, smaller is better; NaN counts as the worst. It calls what it is given as often
            as it can (it may raise Cancelled).
        dimensions: n.
        low: of every coordinate.
        high: of every coordinate.
        evaluations: of the objective, the middle's included.
        seed: of the draws.
        progress: told how many evaluations are finished.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False))
    names = [f"{number:04}" for number in range(dimensions)]  # in the order in which Optuna has them
    study.enqueue_trial(dict.fromkeys(names, (low + high) / 2))
    best, least, history = [(low + high) / 2] * dimensions, math.inf, []
    for done in range(evaluations):

        def tick(done: int = done) -> None:
            progress(done)

        trial = study.ask()
        point = [round(trial.suggest_float(name, low, high), _DECIMALS) for name in names]
        tick()
        value = objective(point, tick)
        history.append(value)
        if value < least:
            best, least = point, value
        study.tell(trial, math.inf if math.isnan(value) else value)
    progress(evaluations)
    return Found(best, least, history)
