"""The entries of both papers that compare methods of merging."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from nmerge_core.figures import style
from nmerge_core.figures.report import methods, shares
from nmerge_core.reports.claims import neuronmerge_gains
from nmerge_core.reports.compared import better
from nmerge_core.reports.findings import BASE, Findings, Lacking
from nmerge_core.reports.item import NEUROMERGING, NEURONMERGE, Item, cannot
from nmerge_core.reports.published import neuromerging, neuronmerge
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
from nmerge_core.reports.variants import (
    NEUROMERGING as NEURO,
)
from nmerge_core.reports.verdicts import Verdict, together

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


def _settings(found: Findings) -> list[tuple[str, ...]]:
    if not (settings := found.plan.settings):
        raise Lacking("There is one fine-tune alone, and nothing to merge.")
    return settings


def _means(found: Findings) -> pd.DataFrame:
    columns = {}
    for models in _settings(found):
        table = setting_table(found, models, main_methods(found, models))
        columns[" & ".join(models)] = table.set_index("method")["mean"]
    return pd.DataFrame(columns).reset_index()


def _detailed(found: Findings) -> pd.DataFrame:
    tables = []
    for models in _settings(found):
        table = setting_table(found, models, main_methods(found, models))
        table.insert(1, "merged", " & ".join(models))
        tables.append(table)
    ends = ["mean", "low", "high"]
    joined = pd.concat(tables, ignore_index=True)
    return joined[[name for name in joined if name not in ends] + ends]


def _draw_all(found: Findings, dark: bool) -> "go.Figure":
    models = _settings(found)[-1]
    table = found.score_table(main_methods(found, models), found.owned(models))
    return methods(table, found.unit, (NEURONMERGE_1, NEURONMERGE_2), dark=dark)


def _searched(found: Findings) -> pd.DataFrame:
    rows: dict[str, dict[str, float | str]] = {
        "task arithmetic, α": {"method": "task arithmetic, α"},
        "DARE, share dropped": {"method": "DARE, share dropped"},
    }
    for models in _settings(found):
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


def _data_free(found: Findings) -> dict[str, Variant]:
    plan = found.plan
    labels = _settings(found)[-1]
    rows = {each.title: each for each in plan.data_free(labels)}
    arithmetic = found.best(plan.search(labels, TASK_ARITHMETIC))
    averaging, *others = rows.items()
    return {averaging[0]: averaging[1], TASK_ARITHMETIC: arithmetic, **dict(others)}


def _language_models(found: Findings) -> pd.DataFrame:
    labels = _settings(found)[-1]
    subjects = found.owned(labels)
    alone = found.score_table({label: label for label in labels}, subjects)
    return pd.concat([alone, found.score_table(_data_free(found), subjects)], ignore_index=True)


def _draw_data_free(found: Findings, dark: bool) -> "go.Figure":
    labels = _settings(found)[-1]
    return methods(found.score_table(_data_free(found), found.owned(labels)), found.unit, (NEURO,), dark=dark)


def _above_data_free(found: Findings) -> Verdict:
    rows = _data_free(found)
    subjects = found.owned(_settings(found)[-1])
    others = [variant for title, variant in rows.items() if title != NEURO]
    return better(found, [(rows[NEURO], other) for other in others], subjects)


def _domains(found: Findings) -> pd.DataFrame:
    labels = _settings(found)[-1]
    inside, outside = found.owned(labels), found.foreign
    if not outside:
        raise Lacking("Every task of the family is that of a fine-tune: there is none outside their domains.")
    rows: dict[str, str | Variant] = {BASE: BASE, **{each.title: each for each in found.plan.data_free(labels)}}
    within, beyond = found.score_table(rows, inside), found.score_table(rows, outside)
    names = [subject.name for subject in outside]
    return within[["method", "mean"]].rename(columns={"mean": "in-domain mean"}).join(beyond[names])


def _beyond(found: Findings) -> Verdict:
    outside = found.foreign
    if not outside:
        raise Lacking("Every task of the family is that of a fine-tune.")
    rows = {each.title: each for each in found.plan.data_free(_settings(found)[-1])}
    verdicts = [better(found, [(rows[NEURO], rows[other]) for other in (TIES, PCB)], [each]) for each in outside]
    return together(verdicts)


def _panel(found: Findings, dark: bool) -> "go.Figure":
    labels = _settings(found)[-1]
    rows = {each.title: each for each in reversed(found.plan.data_free(labels))}
    table, colours = found.score_table(rows, found.owned(labels)), style.merge_colours(list(rows))
    wide = table.set_index("method")[[subject.name for subject in found.owned(labels)]].T
    return shares(wide.rename_axis("task").reset_index(), found.unit, colours, dark=dark)


def _needs(models: str, instead: str) -> Callable[[Findings], pd.DataFrame]:
    return cannot(f"It needs {models}. {instead}")


_T5 = "T5 models tuned on seven tasks of choice"
_VIT = "CLIP's vision transformers tuned on eight sets of images"
_SAME = "The same methods on this family's tasks are in Table 3."
_OURS = "Beside another base of the paper's, the same measurements as in Table {}."
_MEAN = "The paper's mean of task arithmetic for math & coding, 69.73, is not that of its scores, 70.18."
_BEST = (
    "α and the density of DARE are the best of those tried, chosen on the same problems as in the paper, which favours "
    "these two."
)

NEURONMERGE_ITEMS = [
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
         lambda found: setting_table(found, _settings(found)[0], main_methods(found, _settings(found)[0])),
         neuronmerge.TABLE_7, None, lambda found: neuronmerge_gains(found, [_settings(found)[0]]),
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
NEUROMERGING_ITEMS = [
    Item(NEUROMERGING, "Figure 2", "The framework", "A drawing of the method.",
         cannot("It is a drawing of the method, with nothing to measure.")),
    Item(NEUROMERGING, "Figure 3", "In and out of domain",
         "NeuroMerging is best on its own tasks and on tasks that no model was tuned on.", _domains, judge=_beyond,
         note="Out of domain are the tasks of the family that are no fine-tune's."),
    Item(NEUROMERGING, "Figure 7", "Methods without validation, task by task",
         "NeuroMerging is best in most tasks.", lambda found: found.score_table(
             {each.title: each for each in found.plan.data_free(_settings(found)[-1])},
             found.owned(_settings(found)[-1])), None, _panel, _above_data_free,
         "The paper's are T5-Large and ViT-L/14."),
    Item(NEUROMERGING, "Table 1", "Methods by what they scale and at which level", "An overview of methods.",
         cannot("It is an overview of methods, with nothing to measure."), neuromerging.TABLE_1),
    Item(NEUROMERGING, "Table 2", "Seven tasks, T5-Large", "NeuroMerging is best on the mean.",
         _needs(_T5, _SAME), neuromerging.TABLE_2,
         note="The paper's means of zero-shot and of NeuroMerging without validation are not those of its scores; the "
         "latter's is with 63.9 in place of 83.9 for wsc."),
    Item(NEUROMERGING, "Table 3", "Language models: LLaMA2",
         "NeuroMerging is best on the mean, by 0.7 points above PCB-Merging with evolution strategies.",
         _language_models, neuromerging.TABLE_3, _draw_data_free, _above_data_free,
         "Each method by its defaults, but for task arithmetic, whose α is the best of those tried."),
    Item(NEUROMERGING, "Table 4", "Vision: ViT-B/32 and ViT-L/14", "NeuroMerging is best on the mean.",
         _needs(_VIT, _SAME), neuromerging.TABLE_4),
    Item(NEUROMERGING, "Table 7", "Seven tasks, T5-Base", "NeuroMerging is best on the mean.",
         _needs(_T5, _SAME), neuromerging.TABLE_7),
    Item(NEUROMERGING, "Table 8", "Eight sets of images, ViT-B/32", "NeuroMerging is best on the mean.",
         _needs(_VIT, _SAME), neuromerging.TABLE_8,
         note="The paper's mean of NeuroMerging is not that of its scores; it is with 77.0 in place of 71.0 for "
         "RESISC45."),
    Item(NEUROMERGING, "Table 9", "Eight sets of images, ViT-L/14", "NeuroMerging is best on the mean.",
         _needs(_VIT, _SAME), neuromerging.TABLE_9),
    Item(NEUROMERGING, "Table 10", "Six tasks out of domain, T5-Base", "NeuroMerging is best on the mean.",
         _needs(_T5, "Tasks of this family that are no fine-tune's are in Figure 3."), neuromerging.TABLE_10),
    Item(NEUROMERGING, "Table 11", "Six tasks out of domain, T5-Large", "NeuroMerging is best on the mean.",
         _needs(_T5, "Tasks of this family that are no fine-tune's are in Figure 3."), neuromerging.TABLE_11),
]  # fmt: skip
