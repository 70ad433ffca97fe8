"""Stored top exemplars of neurons → categories of neurons; pure numpy."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nmerge_core.errors import InputError

GENERAL = 0
"""Index of the General category c0 in every list of categories."""

TOLERANCE = 1e-5
"""Scores this close, relative to the larger, may change places between processors: their order is no result."""


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


def undecided(
    ids: NDArray[np.integer],
    values: NDArray[np.floating],
    exemplar_category: NDArray[np.integer],
    n_categories: int,
    k: int,
    margin: int,
) -> NDArray[np.bool_]:
    """Tell which neurons' category hangs on the order of scores that are within `TOLERANCE` of each other.

    The exemplars whose scores are above the k-th's by more than that vote in any order; of those as high as the k-th
    some vote, and which is no result. A neuron is undecided where other ones of them give it another category.

    Args:
        ids: (neurons, K) exemplar ids, best first.
        values: (neurons, K) their scores, not negative.
        exemplar_category: (exemplars,) category index of each exemplar id.
        n_categories: number of categories, General (index 0) included.
        k: number of exemplars that vote, 1 ≤ k ≤ K.
        margin: the threshold m.

    Returns:
        (neurons,)
    """
    last = values[:, k - 1 : k]  # (neurons, 1), the k-th score
    sure = last < values * (1 - TOLERANCE)  # (neurons, K)
    tied = ~sure & (values >= last * (1 - TOLERANCE))
    found, _ = categorise(ids, exemplar_category, n_categories, k, margin)
    cells = exemplar_category[ids] + n_categories * np.arange(len(ids))[:, None]
    votes, spare = (
        np.bincount(cells[kept], minlength=len(ids) * n_categories).reshape(-1, n_categories) for kept in (sure, tied)
    )  # (neurons, categories): sure votes, and exemplars among which the rest is chosen
    chosen = k - votes.sum(axis=1)  # (neurons,)
    hangs = np.zeros(len(ids), dtype=bool)
    for category in range(n_categories):
        mine = found == category
        state = votes[mine], spare[mine], chosen[mine]
        others = [other for other in range(n_categories) if other != category]
        if category == GENERAL and margin:  # it stays General until another one leads
            for other in others:
                hangs[mine] |= _largest_lead(*state, other) >= margin
        else:
            needed = [margin or int(other < category) for other in others]
            hangs[mine] = (_least_leads(*state, category)[:, others] < needed).any(axis=1)
    return hangs


def _least_leads(
    votes: NDArray[np.integer], spare: NDArray[np.integer], chosen: NDArray[np.integer], category: int
) -> NDArray[np.integer]:
    """Return the least lead that a category may have over each other one, (neurons, categories).

    `chosen` (neurons,) of the `spare` (neurons, categories) exemplars vote beside the `votes`: as many as there are of
    the other category, then of third ones, and only what is still missing of the category itself.
    """
    others = spare.sum(axis=1, keepdims=True) - spare[:, [category]]
    theirs = np.minimum(spare, chosen[:, None])
    mine = np.maximum(0, chosen[:, None] - others)
    return votes[:, [category]] + mine - votes - theirs


def _largest_lead(
    votes: NDArray[np.integer], spare: NDArray[np.integer], chosen: NDArray[np.integer], category: int
) -> NDArray[np.integer]:
    """Return the largest lead that a category may have over the strongest other one, (neurons,)."""
    mine = np.minimum(spare[:, category], chosen)
    votes_of_others, spare_of_others = np.delete(votes, category, axis=1), np.delete(spare, category, axis=1)
    level = votes_of_others.max(axis=1, initial=0)  # the least that the strongest of the others may have
    while True:
        room = np.clip(level[:, None] - votes_of_others, 0, spare_of_others).sum(axis=1)
        full = room < chosen - mine
        if not full.any():
            return votes[:, category] + mine - level
        level = level + full


def intersect(categories: Sequence[NDArray[np.integer]]) -> NDArray[np.bool_]:
    """Tell which neurons have the same category in every model.

    Args:
        categories: one array of category indices per model, all of the same shape.

    Source: NeuronMerge Figs 3 and 6.
    """
    stacked = np.stack(categories)  # (models, neurons)
    return (stacked == stacked[0]).all(axis=0)
