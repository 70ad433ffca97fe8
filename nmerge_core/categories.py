"""Stored top exemplars of neurons → categories of neurons; pure numpy."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nmerge_core.errors import InputError

GENERAL = 0
"""Index of the General category c0 in every list of categories."""


def categorise(
    ids: NDArray[np.integer], exemplar_category: NDArray[np.integer], n_categories: int, k: int, margin: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give each neuron the most frequent category among its top-k exemplars.

    A category is given only if its votes exceed the runner-up's by at least `margin`, else the neuron is General;
    with margin 0 a tie goes to the category that comes first.

    Args:
        ids: (neurons, K) exemplar ids, best first.
        exemplar_category: (exemplars,) category index of each exemplar id.
        n_categories: number of categories, General (index 0) included.
        k: number of exemplars that vote, 1 ≤ k ≤ K.
        margin: the threshold m.

    Returns:
        (neurons,) category index, and (neurons, n_categories) votes.

    Raises:
        InputError: k is not in 1..K, or margin is not in 0..k.

    Source: NeuronMerge Eq. 2; threshold m of App. D.3 (m = 1, the default elsewhere, equals its main result).
    """
    if not 1 <= k <= ids.shape[1]:
        raise InputError(f"top-k must be between 1 and the {ids.shape[1]} stored exemplars of a neuron, found {k}")
    if not 0 <= margin <= k:
        raise InputError(f"margin must be between 0 and k = {k}, found {margin}")
    votes = exemplar_category[ids[:, :k]]  # (neurons, k)
    cells = votes + n_categories * np.arange(len(votes))[:, None]  # one number per neuron and category
    counts = np.bincount(cells.ravel(), minlength=len(votes) * n_categories).reshape(-1, n_categories)
    ranked = np.sort(counts, axis=1)
    runner_up = ranked[:, -2] if n_categories > 1 else 0
    certain = ranked[:, -1] - runner_up >= margin  # (neurons,)
    return np.where(certain, counts.argmax(axis=1), GENERAL), counts


def intersect(categories: Sequence[NDArray[np.integer]]) -> NDArray[np.bool_]:
    """Tell which neurons have the same category in every model.

    Args:
        categories: one array of category indices per model, all of the same shape.

    Source: NeuronMerge Figs 3 and 6.
    """
    stacked = np.stack(categories)  # (models, neurons)
    return (stacked == stacked[0]).all(axis=0)
