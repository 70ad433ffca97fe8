"""NeuroMerging's entries that compare methods of merging: of language models, T5 and models that see images."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from nmerge_core.figures import style
from nmerge_core.figures.report import shares
from nmerge_core.reports.compared import better
from nmerge_core.reports.findings import BASE, T5, VISION, WRITING, Findings, Lacking
from nmerge_core.reports.item import NEUROMERGING, Item, cannot
from nmerge_core.reports.merging import settings_of
from nmerge_core.reports.published import neuromerging
from nmerge_core.reports.validated import SPLIT, above, data_free, draw_overview, draw_scores, overview, scores
from nmerge_core.reports.variants import NEUROMERGING as NEURO
from nmerge_core.reports.variants import PCB, TIES, Variant
from nmerge_core.reports.verdicts import Verdict, nothing, together

if TYPE_CHECKING:
    import plotly.graph_objects as go


def _above_data_free(found: Findings) -> Verdict:
    rows = data_free(found)
    pairs = [(rows[NEURO], other) for title, other in rows.items() if title != NEURO]
    return better(found, pairs, found.owned(settings_of(found)[-1]))


def _inside_and_outside(found: Findings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the base and methods without validation, on tasks of the fine-tunes and on others."""
    if not found.foreign:
        raise Lacking("Every task of the family is that of a fine-tune: there is none outside their domains.")
    rows: dict[str, str | Variant] = {BASE: BASE, **data_free(found)}
    inside = found.owned(settings_of(found)[-1])
    return found.score_table(rows, inside), found.score_table(rows, found.foreign)


def _domains(found: Findings) -> pd.DataFrame:
    within, beyond = _inside_and_outside(found)
    names = [subject.name for subject in found.foreign]
    return within[["method", "mean"]].rename(columns={"mean": "in-domain mean"}).join(beyond[names])


def _outside(found: Findings) -> pd.DataFrame:
    return _inside_and_outside(found)[1]


def _beyond(found: Findings) -> Verdict:
    if not found.foreign:
        raise Lacking("Every task of the family is that of a fine-tune.")
    rows = data_free(found)
    pairs = [(rows[NEURO], rows[other]) for other in (TIES, PCB)]
    # Each is told in its own unit, which the fine-tunes' tasks may not have.
    return together([better(replace(found, subjects=(each,)), pairs, [each]) for each in found.foreign])


def _panel(found: Findings, dark: bool) -> "go.Figure":
    labels = settings_of(found)[-1]
    rows = dict(reversed(data_free(found).items()))
    table, colours = found.score_table(rows, found.owned(labels)), style.merge_colours(list(rows))
    wide = table.set_index("method")[[subject.name for subject in found.owned(labels)]].T
    return shares(wide.rename_axis("task").reset_index(), found.unit, colours, dark=dark)


_NEEDS = {
    WRITING: "language models",
    T5: "sequence-to-sequence models, such as the paper's T5, which were tuned on seven tasks of choice",
    VISION: "models that see images, such as the paper's CLIP's, which were tuned on eight sets of them",
}
_SCORES_IN = {WRITING: "Table 3", T5: "Tables 2 and 7", VISION: "Tables 4, 8 and 9"}
_OUTSIDE_IN = {WRITING: "Figure 3", T5: "Tables 10 and 11", VISION: "Figure 3"}


def _of(
    kind: str, table: Callable[[Findings], pd.DataFrame], where: Mapping[str, str]
) -> Callable[[Findings], pd.DataFrame]:
    """Return what makes a table of models of a kind, and for others says `where` theirs is."""

    def made(found: Findings) -> pd.DataFrame:
        if found.kind != kind:
            raise Lacking(f"It needs {_NEEDS[kind]}. This family's {found.kind} are in {where[found.kind]}.")
        return table(found)

    return made


def _scores_of(kind: str, number: str, title: str, published: pd.DataFrame, *, trend: str = "", note: str = "") -> Item:
    trend = trend or "NeuroMerging is best on the mean."
    table = _of(kind, scores, _SCORES_IN)
    said = f"{SPLIT} {note}".strip()
    return Item(NEUROMERGING, number, title, trend, table, published, draw_scores, above, said)


def _outside_of_t5(number: str, title: str, published: pd.DataFrame) -> Item:
    table, note = _of(T5, _outside, _OUTSIDE_IN), "Out of domain are the tasks of the family that are no fine-tune's."
    return Item(NEUROMERGING, number, title, "NeuroMerging is best on the mean.", table, published, None, _beyond, note)


ITEMS = [
    Item(NEUROMERGING, "Figure 2", "The framework", "A drawing of the method.",
         cannot("It is a drawing of the method, with nothing to measure.")),
    Item(NEUROMERGING, "Figure 3", "In and out of domain",
         "NeuroMerging is best on its own tasks and on tasks that no model was tuned on.", _domains, judge=_beyond,
         note="Out of domain are the tasks of the family that are no fine-tune's."),
    Item(NEUROMERGING, "Figure 7", "Methods without validation, task by task",
         "NeuroMerging is best in most tasks.",
         lambda found: found.score_table(data_free(found), found.owned(settings_of(found)[-1])), None, _panel,
         _above_data_free, "The paper's are T5-Large and ViT-L/14."),
    Item(NEUROMERGING, "Table 1", "Methods by what they scale and at which level",
         "Earlier methods scale by parameter, task or layer; NeuroMerging scales by neuron.", overview,
         neuromerging.TABLE_1, draw_overview,
         lambda found: nothing("The paper's table is an overview without scores; these are this family's own."),
         f"{SPLIT} Tuned are r, or λ1 and λ2, of NeuroMerging, and density and λ of TIES-Merging. Texts are the "
         "corpus's."),
    _scores_of(T5, "Table 2", "Seven tasks, T5-Large", neuromerging.TABLE_2,
               note="The paper's means of zero-shot and of NeuroMerging without validation are not those of its "
               "scores; the latter's is with 63.9 in place of 83.9 for wsc."),
    _scores_of(WRITING, "Table 3", "Language models: LLaMA2", neuromerging.TABLE_3,
               trend="NeuroMerging is best on the mean, by 0.7 points above PCB-Merging with evolution strategies."),
    _scores_of(VISION, "Table 4", "Vision: ViT-B/32 and ViT-L/14", neuromerging.TABLE_4),
    _scores_of(T5, "Table 7", "Seven tasks, T5-Base", neuromerging.TABLE_7),
    _scores_of(VISION, "Table 8", "Eight sets of images, ViT-B/32", neuromerging.TABLE_8,
               note="The paper's mean of NeuroMerging is not that of its scores; it is with 77.0 in place of 71.0 for "
               "RESISC45."),
    _scores_of(VISION, "Table 9", "Eight sets of images, ViT-L/14", neuromerging.TABLE_9),
    _outside_of_t5("Table 10", "Six tasks out of domain, T5-Base", neuromerging.TABLE_10),
    _outside_of_t5("Table 11", "Six tasks out of domain, T5-Large", neuromerging.TABLE_11),
]  # fmt: skip
