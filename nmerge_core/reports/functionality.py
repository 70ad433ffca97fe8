"""NeuronMerge's entries on what neurons do: their categories, whether they keep them, and what they are for."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from nmerge_core.figures import style
from nmerge_core.figures.labels import agreement_matrix
from nmerge_core.figures.neurons import categories_by_layer, over_depth, proportions
from nmerge_core.figures.report import knocked_out as draw_knocked_out
from nmerge_core.figures.similarity import mean_cosine
from nmerge_core.labelling.tables import Labels, describe
from nmerge_core.reports.claims import kept_category, knocked_out
from nmerge_core.reports.findings import BASE, Findings, Lacking
from nmerge_core.reports.intervals import Estimate
from nmerge_core.reports.item import NEURONMERGE, Item, cannot
from nmerge_core.reports.published import neuronmerge as published
from nmerge_core.reports.subjects import Subject
from nmerge_core.reports.verdicts import AGREES, DIFFERS, Verdict, above, nothing, number

if TYPE_CHECKING:
    import plotly.graph_objects as go

_ALIKE = 0.99  # a mean cosine above which neurons point the same way


def _categories(found: Findings) -> list[str]:
    present = list(dict.fromkeys(found.table("counts")["category"]))
    return sorted(present, key=[*found.family.categories, *present].index)


def _models(found: Findings) -> list[str]:
    return [member.label for member in found.family.members]


def _model_colours(found: Findings, dark: bool) -> dict[str, str]:
    tuned = style.category_colours([model.category or model.label for model in found.family.models])
    own = {model.label: tuned[model.category or model.label] for model in found.family.models}
    return {BASE: style.base_colour(dark), **own}


def _counts(found: Findings) -> pd.DataFrame:
    return found.table("counts").groupby("category", sort=False)[[*_models(found), "intersection"]].sum().reset_index()


def _proportions(found: Findings, dark: bool) -> "go.Figure":
    colours = style.category_colours(_categories(found))
    return proportions(found.table("counts"), _models(found), colours, dark=dark)


def _every_category(found: Findings) -> Verdict:
    base = found.table("counts").groupby("category")[BASE].sum()
    least = str(base.idxmin())
    told = f"The smallest category of the base, {least}, has {base[least]:,} of {base.sum():,} neurons."
    return Verdict(AGREES if base[least] else DIFFERS, told)


def _by_layer(found: Findings, dark: bool, layers: Sequence[int]) -> "go.Figure":
    return categories_by_layer(found.table("counts"), layers, _model_colours(found, dark), dark=dark)


def _layers(found: Findings) -> list[int]:
    return sorted({int(layer) for layer in found.table("counts")["layer"]})


def _every_fifth(found: Findings) -> list[int]:
    layers = _layers(found)
    return [*layers[:: 5 if len(layers) > 6 else 1]] + (
        [layers[-1]] if (len(layers) - 1) % 5 and len(layers) > 6 else []
    )


def _first_layer(found: Findings) -> pd.DataFrame:
    counts = found.table("counts")
    return counts[counts["layer"] == _layers(found)[0]].reset_index(drop=True)


def _exemplars(found: Findings) -> pd.DataFrame:
    return found.table("exemplars")


def _knockouts(found: Findings, only: Sequence[str] | None = None) -> pd.DataFrame:
    """Return category, group, proportion, neurons, draws, mean, low, high, of the category's own task."""
    frame, subjects = found.table("knockout"), {subject.name: subject for subject in found.subjects}
    rows = []
    for (category, group, proportion), own in frame.groupby(["category", "group", "proportion"], sort=False):
        if only is not None and category not in only:
            continue
        subject = subjects[own["subject"].iloc[0]]
        by_draw = [found.shown(float(subject.points(each["value"]).mean())) for _, each in own.groupby("seed")]
        row = {"category": category, "group": group, "proportion": proportion, "neurons": int(own["neurons"].iloc[0])}
        rows.append(row | {"mean": sum(by_draw) / len(by_draw), "low": min(by_draw), "high": max(by_draw)})
    for category in dict.fromkeys(row["category"] for row in rows):
        intact = found.shown(found.mean(BASE, [_of_category(found, category)]))
        for group in (category, "random"):
            start = {"category": category, "group": group, "proportion": 0.0, "neurons": 0}
            rows.append(start | dict.fromkeys(("mean", "low", "high"), intact))
    if not rows:
        raise Lacking("The family has no fine-tune for code, whose neurons this figure silences; see Figure 7.")
    return pd.DataFrame(rows).sort_values(["category", "group", "proportion"], ignore_index=True)


def _of_category(found: Findings, category: str) -> Subject:
    label = next(model.label for model in found.family.models if model.category == category)
    return found.owned([label])[0]


def _draw_knockouts(found: Findings, dark: bool, only: Sequence[str] | None = None) -> "go.Figure":
    table = _knockouts(found, only)
    names = list(dict.fromkeys(table["category"]))
    return draw_knocked_out(table, style.category_colours(names), dict.fromkeys(names, found.unit), BASE, dark=dark)


def _cosines(found: Findings) -> pd.DataFrame:
    table = found.table("cosine")
    return (
        table.groupby(["model", "matrix"], sort=False).agg(mean=("mean", "mean"), lowest=("min", "min")).reset_index()
    )


def _draw_cosines(found: Findings, dark: bool) -> "go.Figure":
    return mean_cosine(found.table("cosine"), _model_colours(found, dark), dark=dark)


def _alike(found: Findings) -> Verdict:
    means = found.table("cosine").groupby("model")["mean"].mean()
    low = float(means.min())
    told = (
        f"The mean cosine with the base is {number(low, 4)} to {number(float(means.max()), 4)}, all neurons being "
        f"measured; it agrees from {_ALIKE} on."
    )
    return Verdict(AGREES if low >= _ALIKE else DIFFERS, told, Estimate(low, low, low))


def _over_depth(found: Findings, dark: bool) -> "go.Figure":
    return over_depth(found.table("counts"), BASE, style.category_colours(_categories(found)), dark=dark)


def _depth(found: Findings) -> pd.DataFrame:
    return found.table("counts").pivot(index="layer", columns="category", values=BASE)[_categories(found)].reset_index()


def _labels(found: Findings) -> Labels:
    if found.labels is None:
        raise Lacking(
            "No neurons of the base were labelled: `nmerge label`, or Neurons, asks a chat model; a report that is "
            "begun after that has what it said."
        )
    return found.labels


def _labels_agree(found: Findings) -> Verdict:
    labels = _labels(found)
    told = f"Asked: {labels.meta['by']}. {' '.join(describe(labels))}"
    if labels.agreement is None or math.isnan(labels.kappa_interval.low):
        return nothing(told)
    kappa = Estimate(labels.agreement.kappa, labels.kappa_interval.low, labels.kappa_interval.high)
    return above(kappa, 0.0, f"{told} It agrees where κ is above 0.")


_SILENCED = (
    "All layers of the base are silenced, where the paper silences layer 13 of 28: "
    "one layer of a small model does little."
)

ITEMS = [
    Item(NEURONMERGE, "Figure 1", "Functional neuron groups", "A drawing of the idea.",
         cannot("It is a drawing of the idea, with nothing to measure.")),
    Item(NEURONMERGE, "Figure 2", "Proportions of categories, and cases",
         "Neurons of both bases divide into General, Math, Code and Translation; Llama-3.1 has more General ones.",
         _counts, figure=_proportions, judge=_every_category,
         note="Cases are in Figure 11. Counts are over all layers; intersection counts neurons of one category in all "
         "models.", behind="a part of a bar"),
    Item(NEURONMERGE, "Figure 3", "Categories in the first layer, before and after tuning",
         "The distribution hardly changes, and most neurons keep their category.",
         _first_layer, figure=lambda found, dark: _by_layer(found, dark, _layers(found)[:1]), judge=kept_category,
         note="The verdict is over all layers.", behind="a bar"),
    Item(NEURONMERGE, "Figure 4", "Knocking out code neurons",
         "Silencing code neurons hurts code more than silencing as many random ones.",
         lambda found: _knockouts(found, ["code"]),
         figure=lambda found, dark: _draw_knockouts(found, dark, ["code"]),
         judge=lambda found: knocked_out(found, ["code"]), note=_SILENCED, behind="a point of the category"),
    Item(NEURONMERGE, "Figure 5", "The framework", "A drawing of the method.",
         cannot("It is a drawing of the method, with nothing to measure.")),
    Item(NEURONMERGE, "Figure 6", "Categories in every fifth layer, before and after tuning",
         "In almost all layers most neurons keep their category.",
         lambda found: found.table("counts"),
         figure=lambda found, dark: _by_layer(found, dark, _every_fifth(found)), judge=kept_category,
         behind="a bar"),
    Item(NEURONMERGE, "Figure 7", "Knocking out the neurons of every task",
         "Silencing a task's neurons hurts the task more than silencing as many random ones.",
         _knockouts, figure=_draw_knockouts, judge=knocked_out, note=_SILENCED, behind="a point of the category"),
    Item(NEURONMERGE, "Figure 8", "Cosine similarity with the base",
         "Tuned neurons point almost where the base's do; those of continued pre-training do not.",
         _cosines, published.FIGURE_8, _draw_cosines, _alike, behind="a point"),
    Item(NEURONMERGE, "Figure 9", "Neurons of each category over depth",
         "Qwen2.5 has more Translation neurons in its first layers; Llama-3.1 has another pattern.",
         _depth, figure=_over_depth,
         judge=lambda found: nothing("The paper's two bases differ in it, so that a family cannot disagree."),
         behind="a point"),
    Item(NEURONMERGE, "Figure 10", "Categories by a language model",
         "A language model of 72 billion parameters gives 72 of 100 neurons the category of their texts.",
         lambda found: _labels(found).counts.reset_index(), published.FIGURE_10,
         lambda found, dark: agreement_matrix(_labels(found).counts, dark=dark), _labels_agree,
         note="Of the newest labelling of the base that was in the cache; rows are categories of the texts."),
    Item(NEURONMERGE, "Figure 11", "Cases of neurons of each category",
         "Neurons react to what their category is about.", _exemplars,
         judge=lambda found: nothing("Cases are to be read; judge them yourself."),
         note="The neuron of each category that most of its ten texts agree on, in the first and last layer, with the "
         "text that excites it most."),
    Item(NEURONMERGE, "Figure 12", "The prompt for classifying by a language model", "A prompt, with no numbers.",
         cannot("It is a prompt, with nothing to measure.")),
]  # fmt: skip
