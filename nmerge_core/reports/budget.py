"""How much a report measures: a short one for a first look, a full one for the figures of the papers."""

from dataclasses import dataclass

from nmerge_core.parameters.values import Choice


@dataclass(frozen=True)
class Budget:
    """What is measured: problems of each task, and the values of every parameter that the papers vary.

    `pairs` is how many pairs of fine-tunes are merged beside all of them together, `samples` how many texts measure
    linearity and solve coefficients, `repeats` how many random groups stand beside functional ones. `evaluations` is
    how many candidates a search of coefficients merges, and `steps` how many AdaMerging takes. The first `validation`
    problems of each task are those that a setting is chosen by where others test it.
    """

    name: str
    problems: int
    pairs: int
    samples: int
    repeats: int
    evaluations: int
    validation: int
    steps: int
    proportions: tuple[float, ...]
    weights: tuple[float, ...]  # α of task arithmetic
    densities: tuple[float, ...]  # of DARE, 1 − the share that is dropped
    ties: tuple[tuple[float, float], ...]  # density and λ of TIES-Merging, beside its defaults, 0.2 and 1
    votes: tuple[int, ...]  # k
    margins: tuple[int, ...]  # m
    ratios: tuple[float, ...]  # r
    lambdas_1: tuple[float, ...]
    lambdas_2: tuple[float, ...]


QUICK = Budget(
    "quick",
    problems=40,
    pairs=1,
    samples=15,
    repeats=2,
    evaluations=12,
    validation=10,
    steps=50,
    proportions=(0.2, 0.6, 1.0),
    weights=(0.3, 0.5, 0.7),
    densities=(0.4, 0.2),
    ties=((0.1, 1.0), (0.2, 0.5), (0.2, 1.5)),
    votes=(10, 20, 40),
    margins=(1, 2, 8),
    ratios=(0.05, 0.15, 0.5),
    lambdas_1=(0.0, 1.0),
    lambdas_2=(1.0, 2.0),
)
FULL = Budget(
    "full",
    problems=150,
    pairs=3,
    samples=30,
    repeats=3,
    evaluations=40,
    validation=50,
    steps=500,
    proportions=(0.2, 0.4, 0.6, 0.8, 1.0),
    weights=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    densities=(0.4, 0.3, 0.2, 0.1),
    ties=(
        *((0.1, scale) for scale in (0.5, 0.75, 1.0, 1.5, 2.0)),
        *((0.2, scale) for scale in (0.5, 0.75, 1.5, 2.0)),
        *((0.3, scale) for scale in (0.5, 0.75, 1.0, 1.5, 2.0)),
    ),
    votes=(10, 20, 30, 40),
    margins=(1, 2, 3, 4, 5, 6, 7, 8),
    ratios=(0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0),
    lambdas_1=(0.0, 0.5, 1.0),
    lambdas_2=(1.0, 1.5, 2.0),
)
BUDGETS = {budget.name: budget for budget in (QUICK, FULL)}
BUDGET = Choice(
    name="budget",
    default=QUICK.name,
    choices=tuple(BUDGETS),
    help="How much is measured: quick is a first look, with few problems and points; full has the papers' points.",
)
