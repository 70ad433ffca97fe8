"""How a sweep chooses its points: Optuna's samplers, each trial's seeded by the sweep's seed and its number.

A sampler knows nothing but the trials that are there, so a sweep that was stopped goes on as if it had not been.
"""

import warnings
from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from nmerge_core.search.axis import Axis

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import Trial

# Optuna is imported where it is used: the pages and the command line read sweeps without it.

_POPULATION = 10  # of NSGA-II: Optuna's 50 would draw most sweeps at random, as a first generation is
# Of the Wilcoxon test after each part of a trial's problems: Pocock's bound for four looks at a level of 5 %.
_P_HOPELESS = 0.0182


def make_sampler(strategy: str, seed: int, number: int) -> "BaseSampler":
    """Return the sampler of one trial."""
    from optuna import samplers

    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    made: dict[str, Callable[[], BaseSampler]] = {
        "grid": lambda: samplers.RandomSampler(seed=own),  # whose points wait in the queue
        "random": lambda: samplers.RandomSampler(seed=own),
        "tpe": lambda: samplers.TPESampler(seed=own, multivariate=True),
        "cma": lambda: samplers.CmaEsSampler(seed=own, warn_independent_sampling=False),
        "nsga2": lambda: samplers.NSGAIISampler(seed=own, population_size=_POPULATION),
    }
    return made[strategy]()


def make_pruner(prune: bool) -> "BasePruner":
    """Return what tells a hopeless trial: one whose problems go worse than the best trial's, by Wilcoxon's test."""
    from optuna import pruners
    from optuna.exceptions import ExperimentalWarning

    if not prune:
        return pruners.NopPruner()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return pruners.WilcoxonPruner(p_threshold=_P_HOPELESS)


def grid(axes: Sequence[Axis]) -> list[dict[str, int]]:
    """Return every combination of the places in the axes' lists, those of the last key changing fastest."""
    return [
        dict(zip((axis.key for axis in axes), places, strict=True))
        for places in product(*(range(len(axis.values)) for axis in axes))
    ]


def draw(trial: "Trial", axes: Sequence[Axis], *, ordered: bool) -> dict[str, Any]:
    """Let a trial draw a point; a list of values that are no rising numbers is a choice, unless all are `ordered`."""
    return {axis.key: axis.value(_drawn(trial, axis, ordered)) for axis in axes}


def _drawn(trial: "Trial", axis: Axis, ordered: bool) -> float:
    last = len(axis.values) - 1
    if axis.values and not (ordered or axis.rises):
        return float(trial.suggest_categorical(axis.key, range(last + 1)))
    if axis.values:
        return trial.suggest_int(axis.key, 0, last)
    if axis.whole:
        return trial.suggest_int(axis.key, axis.value(axis.low), axis.value(axis.high), log=axis.log)
    return trial.suggest_float(axis.key, axis.low, axis.high, log=axis.log)
