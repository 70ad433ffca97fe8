"""What a category's neurons are for: switch a share of them off, score the model (NeuronMerge §2.3, Figs 4 and 7)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nmerge_core.activations.hooks import knock_out
from nmerge_core.activations.store import Classification, open_classification
from nmerge_core.errors import InputError
from nmerge_core.evaluation.scores import Evaluator
from nmerge_core.loading import load_model
from nmerge_core.number_format import AUTO
from nmerge_core.progress import Progress, silent
from nmerge_core.settings import EVALUATE_BATCH

RANDOM = "random"
COLUMNS = ["group", "proportion", "neurons", "seed", "metric", "value", "run_dtype"]
Neurons = dict[int, NDArray[np.int64]]
"""Neuron indices by layer."""


@dataclass(frozen=True)
class Trial:
    """One measurement: which group's neurons are off, what share of the category's number, by which seed."""

    group: str
    proportion: float
    seed: int
    neurons: Neurons

    @property
    def size(self) -> int:
        """The number of neurons that are off."""
        return sum(len(indices) for indices in self.neurons.values())


def knockout(
    model: str,
    neurons: Path,
    category: str,
    layers: Sequence[int],
    proportions: Sequence[float],
    task: str,
    *,
    repeats: int = 3,
    seed: int = 0,
    limit: int | None = None,
    batch_size: int | str = EVALUATE_BATCH.default,
    device: str = "auto",
    run_dtype: str = AUTO,
    run_code: bool = False,
    allow_task_code: bool = False,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Score a model on a task with growing shares of a category's neurons off, and with as many random ones off.

    In each layer the share p of a category of n neurons is the first round(p·n) of a seeded shuffle, so that a larger
    share contains the smaller ones. The control takes the same number in the same layer from a shuffle of all its
    neurons, those of the category included (as the paper's random control), once per repeat.

    Args:
        model: folder or Hub id of the model.
        neurons: the classification folder that says which neurons are the category's; of this model or of its base.
        category: the category to knock out.
        layers: the layers whose neurons go, from 0.
        proportions: shares of the category's neurons, in (0, 1].
        task: the task to score, as in `evaluation.tasks.load_task`.
        repeats: seeds of the control: seed, seed + 1, ….
        seed: seed of the category's shuffle and of the first control.
        limit: score the first this many problems only.
        batch_size: texts at a time, or "auto".
        device: as in `load_model`.
        run_dtype: as in `load_model`.
        run_code: allow a task that runs what the model writes.
        allow_task_code: allow a task that brings code of its own.
        progress: counts measurements.

    Returns:
        Columns group (the category or "random"), proportion, neurons, seed, metric, value, run_dtype; per measurement a
        row for each metric of the task, the primary one first. Both groups begin with proportion 0, the intact model.

    Raises:
        InputError: no such category, layer or task; the category has no neuron there; a proportion, repeats or seed out
            of range; the folder is of another kind of model.
    """
    classification = open_classification(neurons)
    members = category_neurons(classification, category, layers)
    if not proportions:
        raise InputError("proportions: expected at least one share of the category's neurons, found none")
    for proportion in proportions:
        if not 0 < proportion <= 1:
            raise InputError(f"proportions: expected shares above 0 and up to 1, found {proportion:g}; 20 % is 0.2")
    if repeats < 1:
        raise InputError(f"repeats: expected at least 1, found {repeats}")
    if seed < 0:
        raise InputError(f"seed: expected a whole number from 0, found {seed}")
    evaluator = Evaluator(
        [task], limit=limit, batch_size=batch_size, run_code=run_code, allow_task_code=allow_task_code
    )
    language_model = load_model(model, device, run_dtype)
    classification.check_neurons_of(language_model.label, language_model.architecture)
    seeds = range(seed, seed + repeats)
    trials = list(plan(members, classification.widths, category, sorted(set(proportions)), seeds))
    measurements = len(trials) + 1

    def measure(index: int, neurons: Neurons) -> pd.DataFrame:
        def within(stage: str, done: float, total: float, unit: str = "") -> None:
            progress("knocking out neurons", index + min(0.99, done / max(total, 1)), measurements, "measurements")

        with knock_out(language_model.model, language_model.architecture, neurons):
            return evaluator.scored(language_model, within).table[["metric", "value", "run_dtype"]]

    intact = measure(0, {})
    tables = [
        intact.assign(group=group, proportion=0.0, neurons=0, seed=group_seed)
        for group, group_seed in ((category, seed), *((RANDOM, control) for control in seeds))
    ]
    for index, trial in enumerate(trials, start=1):
        scores = measure(index, trial.neurons)
        facts = {"group": trial.group, "proportion": trial.proportion, "neurons": trial.size, "seed": trial.seed}
        tables.append(scores.assign(**facts))
    progress("knocking out neurons", measurements, measurements, "measurements")
    return pd.concat(tables, ignore_index=True)[COLUMNS]


def category_neurons(classification: Classification, category: str, layers: Sequence[int]) -> Neurons:
    """Return the category's neurons in each of the layers.

    Raises:
        InputError: no such category or layer, or no neuron of the category in any of the layers.
    """
    folder = classification.folder
    if category not in classification.categories:
        raise InputError(f"{folder}: no category '{category}'; it has {', '.join(classification.categories)}")
    if unknown := sorted(set(layers) - set(classification.layers)):
        first, last = classification.layers[0], classification.layers[-1]
        raise InputError(f"{folder}: no layer {unknown[0]}; it has layers {first} to {last}")
    table = classification.neurons()
    table = table[(table["category"] == category) & table["layer"].isin(layers)]
    if table.empty:
        named = ", ".join(str(layer) for layer in sorted(set(layers))) or "none"
        raise InputError(f"{folder}: no neuron of category '{category}' in the layers asked for ({named}); add layers")
    return {int(layer): rows["neuron"].to_numpy(np.int64) for layer, rows in table.groupby("layer")}


def plan(
    members: Neurons,
    widths: Mapping[int, int],
    category: str,
    proportions: Sequence[float],
    seeds: Sequence[int],
) -> Iterator[Trial]:
    """Yield the measurements: the category's curve by the first seed, then the control's by each seed.

    Args:
        members: the category's neurons by layer.
        widths: the number of neurons of each layer, from all of which the control is drawn.
        category: its name, which becomes the group's.
        proportions: shares of the category's neurons.
        seeds: seeds of the control.
    """
    everyone = {layer: np.arange(widths[layer]) for layer in members}
    groups = [(category, members, seeds[0]), *((RANDOM, everyone, seed) for seed in seeds)]
    for group, pool, seed in groups:
        shuffled = {
            layer: np.random.default_rng((seed, layer, int(group == RANDOM))).permutation(indices)
            for layer, indices in pool.items()
        }
        for proportion in proportions:
            counts = {layer: round(proportion * len(indices)) for layer, indices in members.items()}
            yield Trial(group, proportion, seed, {layer: np.sort(shuffled[layer][:n]) for layer, n in counts.items()})
