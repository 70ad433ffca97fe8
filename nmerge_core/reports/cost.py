"""NeuronMerge's entries on costs and on data, from measured times and the family's own corpus and tasks."""

from pathlib import Path

import pandas as pd

from nmerge_core.reports.compared import better
from nmerge_core.reports.findings import Findings, Lacking
from nmerge_core.reports.item import NEURONMERGE, Item
from nmerge_core.reports.merging import main_methods
from nmerge_core.reports.published import neuronmerge as published
from nmerge_core.reports.variants import DARE, NEURONMERGE_1, NEURONMERGE_2, SUBLIN, TASK_ARITHMETIC, TIES, Variant
from nmerge_core.reports.verdicts import Verdict


def _setting(found: Findings, place: int) -> tuple[str, ...]:
    settings = found.plan.settings
    if not settings:
        raise Lacking("There is one fine-tune alone, and nothing to merge.")
    if not found.plan.texts:
        raise Lacking(found.lacks.get("neurons", "NeuronMerge needs a corpus with the category of each fine-tune."))
    return settings[min(place, len(settings) - 1)]


def _rows(found: Findings, models: tuple[str, ...]) -> dict[str, Variant]:
    rows = main_methods(found, models)
    if models in (found.plan.pair, found.plan.labels):
        free = {each.title: each for each in found.plan.data_free(models)}
        rows = {TASK_ARITHMETIC: rows[TASK_ARITHMETIC], TIES: free[TIES]} | rows
    return rows


def _costs(found: Findings, place: int) -> pd.DataFrame:
    models = _setting(found, place)
    rows, subjects, times = _rows(found, models), found.owned(models), found.table("times").set_index("variant")
    searched = {TASK_ARITHMETIC: len(found.budget.weights), DARE: len(found.budget.densities)}
    searched[NEURONMERGE_1] = searched[DARE]
    start = found.mean(rows[TASK_ARITHMETIC], subjects)
    table = []
    for title, variant in rows.items():
        gain = found.mean(variant, subjects) - start
        merging, settings = float(times.at[variant.key, "merging"]), searched.get(title, 1)
        classifying = found.classifying if title in (NEURONMERGE_1, NEURONMERGE_2) else 0.0
        seconds = classifying + merging * settings
        table.append(
            {
                "method": title,
                "classifying, s": classifying,
                "one merge, s": merging,
                "settings": settings,
                "all, s": seconds,
                "mean": found.shown(start + gain),
                "gain": gain,
            }
        )
    frame = pd.DataFrame(table)
    normal = float(frame.loc[frame["method"] == TASK_ARITHMETIC, "all, s"].iloc[0])
    return frame.assign(**{"gain / normalised time": frame["gain"] / (frame["all, s"] / normal)})


def _gains(found: Findings, place: int) -> Verdict:
    models = _setting(found, place)
    rows = main_methods(found, models)
    return better(found, [(rows[NEURONMERGE_2], rows[name]) for name in (TASK_ARITHMETIC, SUBLIN)], found.owned(models))


def _data(found: Findings) -> pd.DataFrame:
    family = found.family
    held = found.subjects[0].said if found.subjects and found.subjects[0].said else ""
    tasks = ", ".join(subject.name for subject in found.subjects) if not held else f"loss on {held}"
    rows = [
        ("classifying neurons", family.corpus or "no corpus"),
        ("tuning", ", ".join(f"{model.label}: {Path(model.reference).name}" for model in family.models)),
        ("testing", tasks or "nothing"),
    ]
    return pd.DataFrame(rows, columns=["used for", "this family's"])


_MEASURED = (
    "Times are of this machine, of merges in memory: reading the models, and measuring coefficients, count with the "
    "first merge that needs them. A setting of DARE takes as long as another, and so do those of NeuronMerge₁."
)

ITEMS = [
    Item(NEURONMERGE, "Table 14", "Data for classifying, tuning and testing", "They are of different sets.", _data,
         published.TABLE_14, note="What a family's models were tuned on is not known here."),
    Item(NEURONMERGE, "Table 16", "Gain against time, math and translation",
         "NeuronMerge₂ gains most for its time.", lambda found: _costs(found, 1), published.TABLE_16, None,
         lambda found: _gains(found, 1), f"{_MEASURED} The second set of fine-tunes that was merged."),
    Item(NEURONMERGE, "Table 17", "Gain against time, math and code",
         "NeuronMerge₂ gains most for its time, and SubModule Linearity loses.", lambda found: _costs(found, 0),
         published.TABLE_17, None, lambda found: _gains(found, 0), _MEASURED),
]  # fmt: skip
