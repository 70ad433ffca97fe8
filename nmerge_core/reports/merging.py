"""NeuronMerge's entries that compare methods of merging."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from nmerge_core.figures.report import methods
from nmerge_core.reports.claims import neuronmerge_gains
from nmerge_core.reports.compared import better
from nmerge_core.reports.findings import Findings, Lacking
from nmerge_core.reports.item import NEURONMERGE, Item
from nmerge_core.reports.published import neuronmerge
from nmerge_core.reports.subjects import Subject
from nmerge_core.reports.variants import (
    DARE,
    NEURONMERGE_1,
    NEURONMERGE_2,
    PCB,
    SUBLIN,
    TASK_ARITHMETIC,
    TIES,
    Variant,
)
from nmerge_core.reports.verdicts import Verdict

if TYPE_CHECKING:
    import plotly.graph_objects as go

FINE_TUNED = "fine-tuned model"


def main_methods(found: Findings, models: tuple[str, ...]) -> dict[str, Variant]:
    """Return the methods of Tables 1 and 2 for a set of fine-tunes, searched ones at their best."""
    plan = found.plan
    arithmetic, dare = (found.best(plan.search(models, method)) for method in (TASK_ARITHMETIC, DARE))
    named = {TASK_ARITHMETIC: arithmetic, DARE: dare}
    if not plan.texts:
        return named
    return named | {
        NEURONMERGE_1: plan.neuronmerge_1(dare),
        SUBLIN: plan.sublin(models),
        NEURONMERGE_2: plan.neuronmerge(models),
    }


def fine_tuned(found: Findings, models: Sequence[str], subjects: Sequence[Subject]) -> pd.DataFrame:
    """Return the row of the fine-tunes, each on what it was made for."""
    values = [found.values(model, [subject])[0] for model, subject in zip(models, subjects, strict=True)]
    shown = {subject.name: found.shown(float(own.mean())) for subject, own in zip(subjects, values, strict=True)}
    mean = float(np.mean(list(shown.values())))
    return pd.DataFrame([{"method": FINE_TUNED, **shown, "mean": mean, "low": np.nan, "high": np.nan}])


def setting_table(found: Findings, models: tuple[str, ...], rows: dict[str, Variant]) -> pd.DataFrame:
    """Return the scores of methods that merge a set of fine-tunes, the fine-tunes' own above them."""
    subjects = found.owned(models)
    return pd.concat([fine_tuned(found, models, subjects), found.score_table(rows, subjects)], ignore_index=True)


def settings_of(found: Findings) -> list[tuple[str, ...]]:
    """Return the sets of fine-tunes that are merged; raises Lacking where there is one fine-tune alone."""
    if not (settings := found.plan.settings):
        raise Lacking("There is one fine-tune alone, and nothing to merge.")
    return settings


def _means(found: Findings) -> pd.DataFrame:
    columns = {}
    for models in settings_of(found):
        table = setting_table(found, models, main_methods(found, models))
        columns[" & ".join(models)] = table.set_index("method")["mean"]
    return pd.DataFrame(columns).reset_index()


def _detailed(found: Findings) -> pd.DataFrame:
    tables = []
    for models in settings_of(found):
        table = setting_table(found, models, main_methods(found, models))
        table.insert(1, "merged", " & ".join(models))
        tables.append(table)
    ends = ["mean", "low", "high"]
    joined = pd.concat(tables, ignore_index=True)
    return joined[[name for name in joined if name not in ends] + ends]


def _draw_all(found: Findings, dark: bool) -> "go.Figure":
    models = settings_of(found)[-1]
    table = found.score_table(main_methods(found, models), found.owned(models))
    return methods(table, found.unit, (NEURONMERGE_1, NEURONMERGE_2), dark=dark)


def _searched(found: Findings) -> pd.DataFrame:
    rows: dict[str, dict[str, float | str]] = {
        "task arithmetic, α": {"method": "task arithmetic, α"},
        "DARE, share dropped": {"method": "DARE, share dropped"},
    }
    for models in settings_of(found):
        best = {method: found.best(found.plan.search(models, method)) for method in (TASK_ARITHMETIC, DARE)}
        rows["task arithmetic, α"][" & ".join(models)] = best[TASK_ARITHMETIC].parameters["weight"]
        rows["DARE, share dropped"][" & ".join(models)] = round(1 - best[DARE].parameters["density"], 3)
    return pd.DataFrame(list(rows.values()))


def _pair_baselines(found: Findings) -> dict[str, Variant]:
    if not found.plan.pair:
        raise Lacking("There is one fine-tune alone, and nothing to merge.")
    free = {each.title: each for each in found.plan.data_free(found.plan.pair)}
    main = main_methods(found, found.plan.pair)
    return {TASK_ARITHMETIC: main[TASK_ARITHMETIC], TIES: free[TIES], PCB: free[PCB]} | main


def _more_baselines(found: Findings) -> pd.DataFrame:
    return setting_table(found, found.plan.pair, _pair_baselines(found))


def _above_more_baselines(found: Findings) -> Verdict:
    rows = _pair_baselines(found)
    if NEURONMERGE_1 not in rows:
        raise Lacking(found.lacks.get("neurons", "NeuronMerge needs a corpus."))
    subjects = found.owned(found.plan.pair)
    ours = (NEURONMERGE_1, NEURONMERGE_2)
    pairs = [(rows[one], rows[other]) for one in ours for other in (TIES, PCB)]
    return better(found, pairs, subjects)


_OURS = "Beside another base of the paper's, the same measurements as in Table {}."
_MEAN = "The paper's mean of task arithmetic for math & coding, 69.73, is not that of its scores, 70.18."
_BEST = (
    "α and the density of DARE are the best of those tried, chosen on the same problems as in the paper, which favours "
    "these two."
)

ITEMS = [
    Item(NEURONMERGE, "Table 1", "Mean scores of merges, Qwen2.5-7B",
         "NeuronMerge is best in every column; NeuronMerge₁ improves on DARE, NeuronMerge₂ on SubModule Linearity.",
         _means, neuronmerge.TABLE_1, _draw_all, neuronmerge_gains, _BEST),
    Item(NEURONMERGE, "Table 2", "Mean scores of merges, Llama-3.1-8B",
         "NeuronMerge₂ improves on SubModule Linearity in every column, by about half a point.",
         _means, neuronmerge.TABLE_2, None, neuronmerge_gains, _OURS.format(1)),
    Item(NEURONMERGE, "Table 5", "Scores on each task, Qwen2.5-7B", "As Table 1.",
         _detailed, neuronmerge.TABLE_5, None, neuronmerge_gains,
         f"{_BEST} {_MEAN} Nor is that for coding & translate, 74.81: 74.71."),
    Item(NEURONMERGE, "Table 6", "Scores on each task, Llama-3.1-8B", "As Table 2.",
         _detailed, neuronmerge.TABLE_6, None, neuronmerge_gains,
         f"{_OURS.format(5)} The paper's mean of DARE for math & translate, 85.70, is not that of its scores, 70.28."),
    Item(NEURONMERGE, "Table 7", "Math and code merged, Qwen2.5-14B and Llama2-13B",
         "On larger models NeuronMerge is best as well.",
         lambda found: setting_table(found, settings_of(found)[0], main_methods(found, settings_of(found)[0])),
         neuronmerge.TABLE_7, None, lambda found: neuronmerge_gains(found, [settings_of(found)[0]]),
         "The first two fine-tunes of this family, whatever its size."),
    Item(NEURONMERGE, "Table 8", "The best settings of the baselines",
         "Task arithmetic is best at α of 0.4 to 0.6, DARE with 60 to 80 % dropped.", _searched, neuronmerge.TABLE_8),
    Item(NEURONMERGE, "Table 15", "More baselines: TIES and PCB-Merging",
         "NeuronMerge is better than both.", _more_baselines, neuronmerge.TABLE_15,
         lambda found, dark: methods(found.score_table(_pair_baselines(found), found.owned(found.plan.pair)),
                                     found.unit, (NEURONMERGE_1, NEURONMERGE_2), dark=dark),
         _above_more_baselines,
         f"Each method by its defaults where the paper searches; the first two fine-tunes. {_MEAN}"),
]  # fmt: skip
