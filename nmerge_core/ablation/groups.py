"""Whose neurons are knocked out: those of each category and list, in some layers of a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nmerge_core.ablation.conditions import Neurons
from nmerge_core.activations.store import Classification, open_classification
from nmerge_core.architecture import Architecture
from nmerge_core.checkpoints import label, open_checkpoint
from nmerge_core.errors import InputError
from nmerge_core.merging.plan.neuron_lists import read_lists


@dataclass(frozen=True)
class Groups:
    """The number of neurons of each chosen layer, and in these the neurons of each category and list."""

    folder: Path  # of the classification
    widths: Mapping[int, int]
    neurons: Mapping[str, Neurons]

    def named(self, names: Sequence[str]) -> dict[str, Neurons]:
        """Return groups by name; raises InputError for one that there is not, or if no neuron is in any of them."""
        for name in names:
            if name not in self.neurons:
                raise InputError(f"{self.folder}: no category '{name}'; it has {', '.join(self.neurons)}")
        found = {name: self.neurons[name] for name in names}
        if not any(found.values()):
            category, layers = ("', '".join(names), ", ".join(map(str, self.widths)) or "none")
            raise InputError(
                f"{self.folder}: no neuron of category '{category}' in the layers asked for ({layers}); add layers"
            )
        return found


def open_groups(model: str, neurons: str, layers: Sequence[int] | None, lists: Mapping[str, object] | None) -> Groups:
    """Find the neurons of each category of a classification and of each list in some layers, or all.

    Raises:
        InputError: the classification is of another kind of model, there is no such layer, or a list cannot be read.
    """
    classification, architecture = open_classification(neurons), open_checkpoint(model).architecture
    classification.check_neurons_of(label(model), architecture)
    return _chosen(classification, layers, _lists(lists or {}, classification.categories, architecture))


def category_neurons(classification: Classification, category: str, layers: Sequence[int]) -> Neurons:
    """Return a category's neurons in some layers.

    Raises:
        InputError: no such category or layer, or no neuron of the category in any of the layers.
    """
    return _chosen(classification, layers, {}).named([category])[category]


def _chosen(classification: Classification, layers: Sequence[int] | None, lists: Mapping[str, Neurons]) -> Groups:
    known = classification.widths
    if unknown := sorted(set(layers or ()) - set(known)):
        raise InputError(f"{classification.folder}: no layer {unknown[0]}; it has layers {min(known)} to {max(known)}")
    widths = {layer: width for layer, width in known.items() if layers is None or layer in layers}
    chosen = {
        name: {layer: own for layer, own in by_layer.items() if layer in widths}
        for name, by_layer in (_categories(classification) | dict(lists)).items()
    }
    return Groups(classification.folder, widths, chosen)


def _categories(classification: Classification) -> dict[str, Neurons]:
    found: dict[str, Neurons] = {category: {} for category in classification.categories}
    for (category, layer), rows in classification.neurons().groupby(["category", "layer"]):
        found[str(category)][int(layer)] = np.sort(rows["neuron"].to_numpy(np.int64))
    return found


def _lists(lists: Mapping[str, object], categories: Sequence[str], architecture: Architecture) -> dict[str, Neurons]:
    """Return the neurons of each list; one may be in several, and in a category besides."""
    found: dict[str, Neurons] = {}
    for name, given in lists.items():
        if name in categories:
            raise InputError(f"list of neurons '{name}': expected another name than a category's")
        pairs = sorted(read_lists({name: given}, architecture)[name])
        by_layer = {layer: [neuron for own, neuron in pairs if own == layer] for layer, _ in pairs}
        found[name] = {layer: np.array(own, np.int64) for layer, own in by_layer.items()}
    return found
