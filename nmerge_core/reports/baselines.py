"""NeuroMerging's entries that compare methods of merging: those by weights alone, by texts, and by scores."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas as pd

from nmerge_core.figures import style
from nmerge_core.figures.report import methods, shares
from nmerge_core.reports.compared import better
from nmerge_core.reports.findings import BASE, Findings, Lacking
from nmerge_core.reports.item import NEUROMERGING, Item, cannot
from nmerge_core.reports.merging import settings_of
from nmerge_core.reports.published import neuromerging
from nmerge_core.reports.variants import (
    ADAMERGING,
    DARE,
    FISHER,
    LORAHUB,
    PCB,
    PCB_ES,
    REGMEAN,
    TASK_ARITHMETIC,
    TIES,
    Variant,
)
from nmerge_core.reports.variants import (
    NEUROMERGING as NEURO,
)
from nmerge_core.reports.verdicts import Verdict, nothing, together

if TYPE_CHECKING:
    import plotly.graph_objects as go

_WEIGHTS, _TEXTS, _SCORES = "weights alone", "texts", "scores"
_GOES_BY = {
    FISHER: _TEXTS,
    REGMEAN: _TEXTS,
    TASK_ARITHMETIC: _SCORES,
    TIES: _WEIGHTS,
    DARE: _SCORES,
    LORAHUB: _TEXTS,
    ADAMERGING: _TEXTS,
    PCB: _WEIGHTS,
    PCB_ES: _SCORES,
    NEURO: _WEIGHTS,
    f"{NEURO}, tuned": _SCORES,
}


def _data_free(found: Findings) -> dict[str, Variant]:
    plan = found.plan
    labels = settings_of(found)[-1]
    rows = {each.title: each for each in plan.data_free(labels)}
    arithmetic = found.best(plan.search(labels, TASK_ARITHMETIC))
    averaging, *others = rows.items()
    return {averaging[0]: averaging[1], TASK_ARITHMETIC: arithmetic, **dict(others)}


def _by_data(found: Findings) -> dict[str, Variant]:
    """Return the methods that go by texts or tasks, those that could be merged."""
    return {each.title: each for each in found.plan.by_data(settings_of(found)[-1]) if each.key not in found.lacks}


def _with_search(found: Findings) -> dict[str, Variant]:
    """Return the methods of NeuroMerging's Table 3."""
    *others, ours = _data_free(found).items()
    return dict([*others, *((PCB_ES, each) for title, each in _by_data(found).items() if title == PCB_ES), ours])


def _language_models(found: Findings) -> pd.DataFrame:
    labels = settings_of(found)[-1]
    subjects = found.owned(labels)
    alone = found.score_table({label: label for label in labels}, subjects)
    return pd.concat([alone, found.score_table(_with_search(found), subjects)], ignore_index=True)


def _draw_with_search(found: Findings, dark: bool) -> "go.Figure":
    labels = settings_of(found)[-1]
    return methods(found.score_table(_with_search(found), found.owned(labels)), found.unit, (NEURO,), dark=dark)


def _above_others(found: Findings, rows: dict[str, Variant]) -> Verdict:
    others = [variant for title, variant in rows.items() if title != NEURO]
    return better(found, [(rows[NEURO], other) for other in others], found.owned(settings_of(found)[-1]))


def _above_data_free(found: Findings) -> Verdict:
    return _above_others(found, _data_free(found))


def _above_with_search(found: Findings) -> Verdict:
    return _above_others(found, _with_search(found))


def _overview(found: Findings) -> pd.DataFrame:
    """Return the methods of NeuroMerging's Table 1, in its order, with what each goes by and what it scores."""
    labels = settings_of(found)[-1]
    tuned = {each.key: each for each in (*found.plan.lambdas().values(), *found.plan.ratios().values())}
    rows = (
        _data_free(found)
        | _by_data(found)
        | {
            DARE: found.best(found.plan.search(labels, DARE)),
            f"{NEURO}, tuned": found.best(list(tuned.values())),
        }
    )
    chosen = {title: rows[title] for title in _GOES_BY if title in rows}
    table = found.score_table(chosen, found.owned(labels))
    table.insert(1, "goes by", [_GOES_BY[title] for title in chosen])
    return table


def _domains(found: Findings) -> pd.DataFrame:
    labels = settings_of(found)[-1]
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
    rows = {each.title: each for each in found.plan.data_free(settings_of(found)[-1])}
    verdicts = [better(found, [(rows[NEURO], rows[other]) for other in (TIES, PCB)], [each]) for each in outside]
    return together(verdicts)


def _panel(found: Findings, dark: bool) -> "go.Figure":
    labels = settings_of(found)[-1]
    rows = {each.title: each for each in reversed(found.plan.data_free(labels))}
    table, colours = found.score_table(rows, found.owned(labels)), style.merge_colours(list(rows))
    wide = table.set_index("method")[[subject.name for subject in found.owned(labels)]].T
    return shares(wide.rename_axis("task").reset_index(), found.unit, colours, dark=dark)


def _needs(models: str, instead: str) -> Callable[[Findings], pd.DataFrame]:
    return cannot(f"It needs {models}. {instead}")


_T5 = "T5 models tuned on seven tasks of choice"
_VIT = "CLIP's vision transformers tuned on eight sets of images"
_SAME = "The same methods on this family's tasks are in Tables 1 and 3."
ITEMS = [
    Item(NEUROMERGING, "Figure 2", "The framework", "A drawing of the method.",
         cannot("It is a drawing of the method, with nothing to measure.")),
    Item(NEUROMERGING, "Figure 3", "In and out of domain",
         "NeuroMerging is best on its own tasks and on tasks that no model was tuned on.", _domains, judge=_beyond,
         note="Out of domain are the tasks of the family that are no fine-tune's."),
    Item(NEUROMERGING, "Figure 7", "Methods without validation, task by task",
         "NeuroMerging is best in most tasks.", lambda found: found.score_table(
             {each.title: each for each in found.plan.data_free(settings_of(found)[-1])},
             found.owned(settings_of(found)[-1])), None, _panel, _above_data_free,
         "The paper's are T5-Large and ViT-L/14."),
    Item(NEUROMERGING, "Table 1", "Methods by what they scale and at which level",
         "Earlier methods scale by parameter, task or layer; NeuroMerging scales by neuron.", _overview,
         neuromerging.TABLE_1, lambda found, dark: methods(_overview(found), found.unit, (NEURO,), dark=dark),
         lambda found: nothing("The paper's table is an overview without scores; these are this family's own."),
         f"What goes by scores was chosen on the problems that it is shown on, {PCB_ES} on the first of them, which "
         "favours it; tuned are r, or λ1 and λ2, the best of those tried. Texts are the corpus's."),
    Item(NEUROMERGING, "Table 2", "Seven tasks, T5-Large", "NeuroMerging is best on the mean.",
         _needs(_T5, _SAME), neuromerging.TABLE_2,
         note="The paper's means of zero-shot and of NeuroMerging without validation are not those of its scores; the "
         "latter's is with 63.9 in place of 83.9 for wsc."),
    Item(NEUROMERGING, "Table 3", "Language models: LLaMA2",
         "NeuroMerging is best on the mean, by 0.7 points above PCB-Merging with evolution strategies.",
         _language_models, neuromerging.TABLE_3, _draw_with_search, _above_with_search,
         "Each method by its defaults, but for task arithmetic, whose α is the best of those tried, and "
         f"{PCB_ES}, whose scales were searched on the first of the same problems."),
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
