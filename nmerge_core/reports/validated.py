"""Methods without and with a validation set: settings are chosen by some problems, and the others test them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from nmerge_core.figures.report import methods
from nmerge_core.reports.compared import better
from nmerge_core.reports.findings import Findings
from nmerge_core.reports.merging import settings_of
from nmerge_core.reports.variants import (
    ADAMERGING,
    AVERAGING,
    DARE,
    FISHER,
    LORAHUB,
    NEUROMERGING,
    PCB,
    PCB_ES,
    REGMEAN,
    TASK_ARITHMETIC,
    TIES,
    Variant,
)
from nmerge_core.reports.verdicts import Verdict

if TYPE_CHECKING:
    import plotly.graph_objects as go

WEIGHTS, TEXTS, SCORES = "weights alone", "texts", "scores"
TIES_TUNED, NEUROMERGING_TUNED = f"{TIES}, tuned", f"{NEUROMERGING}, tuned"
GOES_BY = {  # in the order of NeuroMerging's Table 1
    AVERAGING: WEIGHTS,
    FISHER: TEXTS,
    REGMEAN: TEXTS,
    TASK_ARITHMETIC: SCORES,
    TIES: WEIGHTS,
    TIES_TUNED: SCORES,
    DARE: SCORES,
    LORAHUB: TEXTS,
    ADAMERGING: TEXTS,
    PCB: WEIGHTS,
    PCB_ES: SCORES,
    NEUROMERGING: WEIGHTS,
    NEUROMERGING_TUNED: SCORES,
}
SPLIT = (
    "Where a method goes by scores, its setting was chosen by the first problems of each task (10 with budget quick, "
    "50 with full, at most half); all methods are scored on the others, which share no document with these."
)


def data_free(found: Findings) -> dict[str, Variant]:
    """Return the methods that go by weights alone."""
    return {each.title: each for each in found.plan.data_free(settings_of(found)[-1])}


def _by_data(found: Findings) -> dict[str, Variant]:
    """Return the methods that go by texts or tasks, those that could be merged."""
    return {each.title: each for each in found.plan.by_data(settings_of(found)[-1]) if each.key not in found.lacks}


def _by_scores(found: Findings) -> dict[str, Variant]:
    """Return the methods that a validation set tunes, each at the setting that is best on it."""
    labels, plan, (validation, _) = settings_of(found)[-1], found.plan, found.split
    tried = {
        TASK_ARITHMETIC: plan.search(labels, TASK_ARITHMETIC),
        TIES_TUNED: plan.ties(labels),
        DARE: plan.search(labels, DARE),
        NEUROMERGING_TUNED: plan.tuned(),
    }
    return {title: replace(validation.best(variants), title=title) for title, variants in tried.items()}


def _every(found: Findings) -> dict[str, Variant]:
    rows = data_free(found) | _by_data(found) | _by_scores(found)
    return {title: rows[title] for title in GOES_BY if title in rows}


def _compared(found: Findings) -> dict[str, Variant]:
    """Return the methods of NeuroMerging's tables of scores: those by texts, and DARE, are in its Table 1 alone."""
    return {title: each for title, each in _every(found).items() if GOES_BY[title] != TEXTS and title != DARE}


def _table(found: Findings, rows: Mapping[str, Variant]) -> pd.DataFrame:
    """Return methods on the problems that test them, with what they go by and the setting that was chosen."""
    _, test = found.split
    table = test.score_table(rows, test.owned(settings_of(found)[-1]))
    table.insert(1, "goes by", [GOES_BY[title] for title in rows])
    table.insert(2, "chosen", [_setting(each) if GOES_BY[title] == SCORES else "" for title, each in rows.items()])
    return table


def _setting(variant: Variant) -> str:
    if variant.title == PCB_ES:
        return "a scale per model"
    return ", ".join(f"{_symbol(name)} = {value:g}" for name, value in variant.parameters.items()) or "its defaults"


def _symbol(parameter: str) -> str:
    return parameter.replace("lambda_", "λ").replace("lambda", "λ").replace("_", " ")


def overview(found: Findings) -> pd.DataFrame:
    """Return all methods of NeuroMerging's Table 1."""
    return _table(found, {title: each for title, each in _every(found).items() if title != AVERAGING})


def scores(found: Findings) -> pd.DataFrame:
    """Return what NeuroMerging's tables of scores have: the fine-tunes, and methods without and with validation."""
    labels, (_, test) = settings_of(found)[-1], found.split
    alone = test.score_table({label: label for label in labels}, test.owned(labels))
    table = _table(found, _compared(found))
    return pd.concat([alone, table], ignore_index=True)[list(table)].fillna({"goes by": "", "chosen": ""})


def draw_overview(found: Findings, dark: bool) -> "go.Figure":
    """Draw `overview`."""
    return methods(overview(found), found.unit, (NEUROMERGING, NEUROMERGING_TUNED), dark=dark)


def draw_scores(found: Findings, dark: bool) -> "go.Figure":
    """Draw the methods of `scores`."""
    return methods(_table(found, _compared(found)), found.unit, (NEUROMERGING, NEUROMERGING_TUNED), dark=dark)


def above(found: Findings) -> Verdict:
    """Compare NeuroMerging with what goes by weights alone, and tuned with what a validation set tunes."""
    rows, (_, test) = _compared(found), found.split
    ours = {WEIGHTS: rows[NEUROMERGING], SCORES: rows[NEUROMERGING_TUNED]}
    pairs = [(ours[GOES_BY[title]], each) for title, each in rows.items() if each not in ours.values()]
    return better(test, pairs, test.owned(settings_of(found)[-1]))
