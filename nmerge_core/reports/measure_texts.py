"""What a report measures on the texts of the corpus: categories of neurons, and how linear groups of them are."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from nmerge_core.activations.store import open_classification
from nmerge_core.classification.classification import classify, compare, neuron_categories
from nmerge_core.classification.random_labels import by_chance as categories_by_chance
from nmerge_core.errors import InputError
from nmerge_core.merging.plan.kept import Measurement
from nmerge_core.nonlinearity import by_chance
from nmerge_core.parameters.settings import RANDOM_GROUPS
from nmerge_core.progress import Progress
from nmerge_core.reports.findings import BASE, WRITING
from nmerge_core.reports.measuring import Measuring, called

_SHOWN = 160  # characters of a text that shows what excites a neuron


def measure_neurons(report: Measuring) -> dict[str, Path]:
    """Classify every model; return the folders by label, none where there is no corpus or models have no MLPs."""
    corpus = report.family.corpus
    if corpus is None:
        report.lack("This family names no corpus, whose texts tell what a neuron reacts to.", "neurons", "counts")
        report.lack("This family names no corpus.", "linearity", "exemplars")
        return {}
    folders, started = {}, time.monotonic()
    try:
        for member in report.family.members:
            with report.step(f"neurons of {member.label}", report.effort.classifying) as told:
                folders[member.label] = _classification(report, member.reference, corpus, told)
            if member.label == BASE:
                seconds = open_classification(folders[BASE]).meta.get("seconds", time.monotonic() - started)
                report.found = replace(report.found, classifying=float(seconds))
    except InputError as error:
        report.lack(str(error), "neurons", "counts", "linearity", "exemplars")
        return {}
    opened = {label: open_classification(folder) for label, folder in folders.items()}
    frames = [neuron_categories(each).assign(model=label) for label, each in opened.items()]
    counts = compare(list(folders.values()), list(folders))
    exemplars = _exemplars(opened[BASE])
    found = replace(report.found, neurons=pd.concat(frames), counts=counts, exemplars=exemplars)
    report.found = replace(found, kept_by_chance=categories_by_chance(list(opened.values())).kept)
    stored = opened[BASE].top(opened[BASE].layers[0])[0].shape[1]  # texts that can vote: all of a small corpus
    votes = tuple(k for k in report.budget.votes if k <= stored)
    report.found = replace(report.found, budget=replace(report.budget, votes=votes))
    return folders


def _classification(report: Measuring, reference: str, corpus: str, told: Progress) -> Path:
    asked = {"model": reference, "corpus": corpus, "device": report.device}
    (there,) = report.kept([Measurement("classify", asked)])
    if there is not None:
        return there
    return report.parts.folder_of(
        "neurons", asked, lambda out: classify(reference, corpus, out, device=report.device, progress=told)
    )


def measure_linearity(report: Measuring, folders: Mapping[str, Path]) -> None:
    """Measure the table `linearity`: functional groups of neurons beside random ones, and beside all of a layer."""
    family = report.family
    if not folders or family.corpus is None:
        return
    asked: dict[str, Any] = {
        "base": family.base,
        "models": family.references,
        "corpus": family.corpus,
        "samples": report.budget.samples,
        "draws": RANDOM_GROUPS.default,
        "device": report.device,
    }
    if report.found.kind != WRITING:
        report.lack(f"Linearity is measured of causal language models; these are {report.found.kind}.", "linearity")
        return
    with report.step("linearity of groups", report.effort.linearity) as told:
        frame = report.parts.frame(
            "linearity",
            asked | {"neurons": report.print_of(folders[BASE])},
            lambda: by_chance(**asked, neurons=str(folders[BASE]), progress=told),
        )
    if frame.empty:
        report.lack("All MLPs have routed experts, whose neurons are not grouped by chance.", "linearity")
        return
    named = frame.assign(model=called(frame["model"], report.labels)).fillna({"group": ""})
    report.found = replace(report.found, linearity=named)


def _exemplars(classification: Any) -> pd.DataFrame:
    """Return, per category, the neuron of the first and of the last layer that most votes agree on, with its texts."""
    neurons, texts = classification.neurons(), classification.exemplars().set_index("id")["text"]
    rows = []
    for category in classification.categories:
        own = neurons[neurons["category"] == category]
        for layer in dict.fromkeys((classification.layers[0], classification.layers[-1])):
            here = own[own["layer"] == layer]
            if not here.empty:
                neuron = here.sort_values([f"count_{category}", "neuron"], ascending=[False, True]).iloc[0]
                text = " ".join(str(texts[neuron["exemplars"][0]]).split())[:_SHOWN]
                rows.append((category, layer, int(neuron["neuron"]), int(neuron[f"count_{category}"]), text))
    return pd.DataFrame(rows, columns=["category", "layer", "neuron", "votes", "text"])
