"""What shares of neurons mean: those that random labels of the texts would give, whatever neurons do."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nmerge_core.activations.store import Classification
from nmerge_core.classification.categories import GENERAL, categorise, intersect

NEURONS = 50_000  # of each model at most, as many of every layer: a share of them is known to a quarter of a percent


@dataclass(frozen=True)
class Chance:
    """Shares by random labels: of neurons of the first model that are General, and that all models agree on."""

    general: float
    kept: float


def by_chance(
    opened: Sequence[Classification], *, k: int | None = None, margin: int | None = None, draws: int = 3, seed: int = 0
) -> Chance:
    """Vote with the categories of the texts shuffled, the same way for every model; the mean of some draws.

    Neurons react to the same texts in a base and its fine-tunes, so that most keep *any* category, and a vote without a
    winner is General: without these shares, those of NeuronMerge's Figs 2, 3 and 6 say less than they seem to.

    Args:
        opened: classifications of the same texts, the base's first.
        k: exemplars that vote; the first folder's own by default.
        margin: the threshold m; the first folder's own by default.
        draws: how often the categories are shuffled.
        seed: of the shuffles.

    Raises:
        InputError: k or margin is out of range.
    """
    first = opened[0]
    k = first.meta["top_k"] if k is None else k
    margin = first.meta["margin"] if margin is None else margin
    chance = np.random.default_rng(seed)
    shuffled = [chance.permutation(first.exemplar_categories) for _ in range(draws)]
    general = kept = total = 0
    for layer in first.layers:
        step = -(-sum(first.widths.values()) // NEURONS)
        tops = [found.top(layer, k)[0][::step] for found in opened]
        for labels in shuffled:
            votes = [categorise(ids, labels, len(first.categories), k, margin)[0] for ids in tops]
            general += int((votes[0] == GENERAL).sum())
            kept += int(intersect(votes).sum())
            total += len(votes[0])
    return Chance(general / total, kept / total)
