"""Which neurons are labelled: a draw of all, as many of each category, or those of lists."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nmerge_core.activations.store import Classification
from nmerge_core.architecture import Architecture
from nmerge_core.labelling.shown import Neuron
from nmerge_core.merging.plan.neuron_lists import read_lists


def choose_neurons(
    found: Classification,
    architecture: Architecture,
    *,
    count: int,
    each_category: bool,
    lists: Mapping[str, Any] | None,
    seed: int,
) -> list[Neuron]:
    """Return the neurons to label, by layer and number; a larger draw has those of a smaller one of the same seed.

    Args:
        found: a classification.
        architecture: of its model.
        count: neurons in all; every one where there are no more.
        each_category: draw as many of each category, all of one that has fewer.
        lists: neurons to take in place of a draw.
        seed: of the draw.

    Raises:
        InputError: a list cannot be read.
    """
    if lists:
        return sorted({pair for pairs in read_lists(lists, architecture).values() for pair in pairs})
    frame = found.neurons()
    order = np.random.default_rng(seed).permutation(len(frame))
    shuffled = frame[["layer", "neuron", "category"]].iloc[order]
    if each_category:
        drawn = shuffled.groupby("category", sort=False).head(max(1, count // len(found.categories)))
    else:
        drawn = shuffled.head(count)
    return sorted((int(layer), int(neuron)) for layer, neuron in drawn[["layer", "neuron"]].to_numpy())
