"""The entries of both papers that vary one thing: k, m, groups at random, choices for groups, ψ, r and the λs."""

from typing import TYPE_CHECKING

import pandas as pd

from nmerge_core.figures.report import course, grid, methods
from nmerge_core.reports.claims import lambda_1
from nmerge_core.reports.compared import best_of, better, steady
from nmerge_core.reports.findings import Findings, Lacking, documents
from nmerge_core.reports.intervals import combined
from nmerge_core.reports.item import NEUROMERGING, NEURONMERGE, Item
from nmerge_core.reports.merging import main_methods
from nmerge_core.reports.plan import CHOICES
from nmerge_core.reports.published import neuromerging, neuronmerge
from nmerge_core.reports.subjects import Subject
from nmerge_core.reports.variants import DARE, NEURONMERGE_1, NEURONMERGE_2, SUBLIN, TASK_ARITHMETIC, Variant
from nmerge_core.reports.verdicts import Verdict, above, interval, together

if TYPE_CHECKING:
    import plotly.graph_objects as go

_EXPERIMENTS = {
    "experiment 1": ("DARE", "task arithmetic"),
    "experiment 2": ("SubLin", "task arithmetic"),
    "experiment 3": ("DARE", "DARE"),
    "experiment 4": ("SubLin", "DARE"),
}


def _pair(found: Findings) -> tuple[tuple[str, ...], list[Subject]]:
    """Return the fine-tunes of the ablations and what they were made for; raises Lacking where there are none."""
    plan = found.plan
    if not plan.pair:
        raise Lacking("There is one fine-tune alone, and nothing to merge.")
    if not plan.texts:
        raise Lacking(found.lacks.get("neurons", "NeuronMerge needs a corpus with the category of each fine-tune."))
    return plan.pair, found.owned(plan.pair)


def _all(found: Findings) -> tuple[tuple[str, ...], list[Subject]]:
    plan = found.plan
    if not plan.settings:
        raise Lacking("There is one fine-tune alone, and nothing to merge.")
    return plan.labels, found.owned(plan.labels)


def _choices(found: Findings) -> pd.DataFrame:
    (first, second), subjects = _pair(found)
    cells = found.plan.choices()
    rows = [
        {f"{first} neurons": title}
        | {
            f"{second}: {other_title}": found.shown(found.mean(cells[one, other], subjects))
            for other, other_title in CHOICES.items()
        }
        for one, title in CHOICES.items()
    ]
    return pd.DataFrame(rows)


def _draw_choices(found: Findings, dark: bool) -> "go.Figure":
    (first, second), _ = _pair(found)
    cells = _choices(found).set_index(f"{first} neurons")
    cells.columns = list(CHOICES.values())
    return grid(cells, f"{second} neurons", f"{first} neurons", found.unit, dark=dark)


def _drop_is_best(found: Findings) -> Verdict:
    _, subjects = _pair(found)
    cells = found.plan.choices()
    return best_of(
        found, cells["drop", "drop"], [each for key, each in cells.items() if key != ("drop", "drop")], subjects
    )


def _random_groups(found: Findings) -> pd.DataFrame:
    models, subjects = _pair(found)
    main = main_methods(found, models)
    random = {f"random groups, draw {number}": each for number, each in enumerate(found.plan.random_groups(), 1)}
    return found.score_table(
        {TASK_ARITHMETIC: main[TASK_ARITHMETIC], **random, NEURONMERGE_2: main[NEURONMERGE_2]}, subjects
    )


def _function_matters(found: Findings) -> Verdict:
    models, subjects = _pair(found)
    random = found.plan.random_groups()
    columns = [found.values(each, subjects) for each in (found.plan.neuronmerge(models), *random)]
    difference = combined(columns, [1.0, *[-1 / len(random)] * len(random)], documents(subjects))
    told = f"Functional less random groups, {len(random)} draws: {interval(difference, found.write)} {found.of_change}."
    return above(difference, 0.0, told)


def _course(found: Findings, name: str, variants: dict, subjects: list[Subject]) -> pd.DataFrame:
    table = found.score_table({str(value): variant for value, variant in variants.items()}, subjects)
    return table.assign(method=list(variants)).rename(columns={"method": name})


def _by_k(found: Findings) -> dict[int, Variant]:
    variants = found.plan.votes()
    if len(variants) < 2:
        raise Lacking("The corpus has too few texts for the vote of more of them.")
    return variants


def _votes(found: Findings) -> pd.DataFrame:
    _, subjects = _pair(found)
    return _course(found, "k", _by_k(found), subjects)


def _margins(found: Findings) -> pd.DataFrame:
    _, subjects = _pair(found)
    return _course(found, "m", found.plan.margins(), subjects)


def _k_hardly_matters(found: Findings) -> Verdict:
    _, subjects = _pair(found)
    by_k = _by_k(found)
    first, last = min(by_k), max(by_k)
    return steady(found, f"From k = {first} to {last}", by_k[first], by_k[last], subjects)


def _m_hardly_matters(found: Findings) -> Verdict:
    _, subjects = _pair(found)
    by_m = found.plan.margins()
    first, last = min(by_m), max(by_m)
    return steady(found, f"From m = {first} to {last}", by_m[first], by_m[last], subjects)


def _with_arithmetic(found: Findings) -> list[tuple[tuple[str, ...], Variant, Variant]]:
    _pair(found)
    best = [(models, found.best(found.plan.search(models, TASK_ARITHMETIC))) for models in found.plan.settings]
    return [(models, each, found.plan.with_task_arithmetic(each)) for models, each in best]


def _arithmetic_table(found: Findings) -> pd.DataFrame:
    tables = []
    for models, alone, joined in _with_arithmetic(found):
        table = found.score_table({TASK_ARITHMETIC: alone, joined.title: joined}, found.owned(models))
        table.insert(1, "merged", " & ".join(models))
        tables.append(table)
    ends = ["mean", "low", "high"]
    joined_tables = pd.concat(tables, ignore_index=True)
    return joined_tables[[name for name in joined_tables if name not in ends] + ends]


def _above_arithmetic(found: Findings) -> Verdict:
    models, alone, joined = _with_arithmetic(found)[0]
    return better(found, [(joined, alone)], found.owned(models))


def _combinations(found: Findings) -> dict[str, Variant]:
    models, _ = _pair(found)
    main = main_methods(found, models)
    more = found.plan.combinations(main[TASK_ARITHMETIC], main[DARE])
    order = (TASK_ARITHMETIC, DARE, SUBLIN, NEURONMERGE_1, NEURONMERGE_2)
    return {name: main[name] for name in order} | {each.title: each for each in more}


def _combinations_table(found: Findings) -> pd.DataFrame:
    table = found.score_table(_combinations(found), found.owned(found.plan.pair))
    parts = {NEURONMERGE_1: ("DARE", "SubLin"), NEURONMERGE_2: ("SubLin", "SubLin"), **_EXPERIMENTS}
    table.insert(1, "attention", [parts.get(name, ("", ""))[0] for name in table["method"]])
    table.insert(2, "General neurons", [parts.get(name, ("", ""))[1] for name in table["method"]])
    return table


def _above_baselines(found: Findings) -> Verdict:
    rows, subjects = _combinations(found), found.owned(found.plan.pair)
    base = [found.values(rows[name], subjects) for name in (TASK_ARITHMETIC, DARE, SUBLIN)]
    ours = [found.values(rows[name], subjects) for name in _EXPERIMENTS]
    weights = [*[1 / len(ours)] * len(ours), *[-1 / len(base)] * len(base)]
    difference = combined([*ours, *base], weights, documents(subjects))
    told = f"Four experiments less three baselines, by means: {interval(difference, found.write)} {found.of_change}."
    return above(difference, 0.0, told)


def _functions(found: Findings) -> pd.DataFrame:
    _, subjects = _all(found)
    return found.score_table(found.plan.functions(), subjects).rename(columns={"method": "merge function"})


def _elect_mean_is_best(found: Findings) -> Verdict:
    _, subjects = _all(found)
    by_name = found.plan.functions()
    verdicts = [
        better(
            found,
            [(by_name["elect + mean"], each) for name, each in by_name.items() if name != "elect + mean"],
            subjects,
        )
    ]
    return together(verdicts)


def _ratios(found: Findings) -> pd.DataFrame:
    _, subjects = _all(found)
    return _course(found, "r", found.plan.ratios(), subjects)


def _small_ratio(found: Findings) -> Verdict:
    _, subjects = _all(found)
    by_r = found.plan.ratios()
    return better(found, [(by_r[0.15], by_r[max(by_r)])], subjects)


def _lambdas(found: Findings) -> pd.DataFrame:
    _, subjects = _all(found)
    cells = {key: found.shown(found.mean(each, subjects)) for key, each in found.plan.lambdas().items()}
    ones, twos = found.budget.lambdas_1, found.budget.lambdas_2
    rows = [{"λ1": one} | {f"λ2 = {two:g}": cells[one, two] for two in twos} for one in ones]
    return pd.DataFrame(rows)


def _draw_lambdas(found: Findings, dark: bool) -> "go.Figure":
    cells = _lambdas(found).set_index("λ1")
    cells.columns = [f"{two:g}" for two in found.budget.lambdas_2]
    return grid(cells, "λ2", "λ1", found.unit, dark=dark)


_PAIR = "The first two fine-tunes of the family, where the paper merges math and code."

NEURONMERGE_ITEMS = [
    Item(NEURONMERGE, "Table 3", "Choices for each task's neurons, Qwen2.5-7B",
         "Dropping what both tasks' own neurons learnt is best.", _choices, neuronmerge.TABLE_3, _draw_choices,
         _drop_is_best, _PAIR),
    Item(NEURONMERGE, "Table 4", "Groups at random", "Random groups are worse than functional ones.",
         _random_groups, neuronmerge.TABLE_4,
         lambda found, dark: methods(_random_groups(found), found.unit, (NEURONMERGE_2,), dark=dark),
         _function_matters,
         f"{_PAIR} The paper's mean of task arithmetic, 69.73, is not that of its scores, 70.18."),
    Item(NEURONMERGE, "Table 9", "How many texts vote, k", "How many texts vote hardly matters.", _votes,
         neuronmerge.TABLE_9,
         lambda found, dark: course(_votes(found), "k", found.unit, dark=dark), _k_hardly_matters, _PAIR),
    Item(NEURONMERGE, "Table 10", "Task arithmetic for attention",
         "NeuronMerge with task arithmetic for attention improves on task arithmetic.", _arithmetic_table,
         neuronmerge.TABLE_10, None, _above_arithmetic, _PAIR),
    Item(NEURONMERGE, "Table 11", "Combinations of methods",
         "Whatever merges attention and General neurons, NeuronMerge improves on the baselines.", _combinations_table,
         neuronmerge.TABLE_11,
         lambda found, dark: methods(_combinations_table(found), found.unit,
                                     (NEURONMERGE_1, NEURONMERGE_2, *_EXPERIMENTS), dark=dark),
         _above_baselines, _PAIR),
    Item(NEURONMERGE, "Table 12", "Choices for each task's neurons, Llama-3.1-8B",
         "Dropping both is best, by more than on Qwen2.5.", _choices, neuronmerge.TABLE_12, None, _drop_is_best,
         "Beside another base of the paper's, the same measurements as in Table 3."),
    Item(NEURONMERGE, "Table 13", "The margin of the vote, m",
         "The mean changes little; math falls a little with m, and code rises.", _margins, neuronmerge.TABLE_13,
         lambda found, dark: course(_margins(found), "m", found.unit, dark=dark), _m_hardly_matters, _PAIR),
]  # fmt: skip
NEUROMERGING_ITEMS = [
    Item(NEUROMERGING, "Figure 4", "λ1 and λ2", "The score hardly depends on λ1; it does on λ2.", _lambdas,
         neuromerging.FIGURE_4,
         _draw_lambdas, lambda_1),
    Item(NEUROMERGING, "Figure 6", "Mask ratio r", "A ratio of 10 to 20 % is best, and more often hurts.", _ratios,
         neuromerging.FIGURE_6, lambda found, dark: course(_ratios(found), "r", found.unit, dark=dark), _small_ratio,
         "λ2 follows from r, as without validation. The verdict compares r = 0.15 with the largest."),
    Item(NEUROMERGING, "Table 5", "Merge functions", "Elect + mean is better than the others by 2.4 points or more.",
         _functions, neuromerging.TABLE_5,
         lambda found, dark: methods(_functions(found).rename(columns={"merge function": "method"}), found.unit,
                                     ("elect + mean",), dark=dark),
         _elect_mean_is_best),
]  # fmt: skip
