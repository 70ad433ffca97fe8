"""How sure the category of a neuron is: by how much it leads, and whether other texts would give it too."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nmerge_core.activations.store import Classification
from nmerge_core.classification.categories import GENERAL, categorise
from nmerge_core.compiler import compiled, inlined
from nmerge_core.parallel import in_order

DRAWS = 100
"""Redrawn corpora: a support of 80 % is then known to ± 4 points (one standard error)."""


@dataclass(frozen=True)
class Confidence:
    """How sure the category of each neuron of a layer is.

    Attributes:
        category: (d_ffn,) index of the category.
        lead: (d_ffn,) share of the k votes by which the first category leads the second, 0 to 1.
        support: (d_ffn,) share of redrawn corpora that give the neuron the same category, 0 to 1.
    """

    category: NDArray[np.int64]
    lead: NDArray[np.float64]
    support: NDArray[np.float64]


def redraw(exemplar_category: NDArray[np.integer], draws: int, seed: int) -> NDArray[np.int32]:
    """Draw the texts of each category again, as many as it has, with replacement.

    The same seed draws the same for every neuron and for every model that has read these texts.

    Args:
        exemplar_category: (exemplars,) category index of each exemplar id.
        draws: how often.
        seed: of the draws.

    Returns:
        (draws, exemplars): how often each exemplar is there.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap (1993), ch. 8: strata are resampled each by itself.
    """
    chance = np.random.default_rng(seed)
    drawn = np.zeros((draws, len(exemplar_category)), np.int32)
    for category in np.unique(exemplar_category):
        own = np.flatnonzero(exemplar_category == category)
        drawn[:, own] = chance.multinomial(len(own), np.full(len(own), 1 / len(own)), draws)
    return drawn


def layer_confidence(
    found: Classification,
    layer: int,
    *,
    k: int | None = None,
    margin: int | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Confidence:
    """Tell how sure the categories of a layer's neurons are, from the scores that are stored.

    Of a redrawn corpus the k best exemplars vote; one that was drawn twice is there twice. They are among the K best
    of the whole corpus, which the folder's top file has, unless fewer than k of these were drawn, which for k = 10 of
    K = 50 as good as never happens; where it does, all scores of the neuron are read. So the votes of any k are exact.

    Args:
        found: an opened folder.
        layer: the layer.
        k: exemplars that vote; the folder's own by default.
        margin: the threshold m; the folder's own by default.
        draws: redrawn corpora, 1 or more.
        seed: of the draws.

    Raises:
        InputError: there is no such layer, or k or margin is out of range.
    """
    k = found.meta["top_k"] if k is None else k
    margin = found.meta["margin"] if margin is None else margin
    labels, n_categories = found.exemplar_categories, len(found.categories)
    drawn = redraw(labels, draws, seed)
    ids = np.ascontiguousarray(found.top(layer)[0])  # (d_ffn, K)
    category, counts = categorise(ids, labels, n_categories, k, margin)
    kept, short = count_kept(ids, drawn, labels, n_categories, k, margin, category)
    if len(rest := np.flatnonzero(short)):
        best = np.argsort(-found.scores(layer, rest), axis=0, kind="stable")  # equal scores in order of id, as in `top`
        ranked = np.ascontiguousarray(best.T.astype(np.int32))  # (rest, exemplars)
        kept[rest], _ = count_kept(ranked, drawn, labels, n_categories, k, margin, category[rest])
    ordered = np.sort(counts, axis=1)
    lead = ordered[:, -1] - (ordered[:, -2] if n_categories > 1 else 0)
    return Confidence(category, lead / k, kept / draws)


def count_kept(
    ids: NDArray[np.int32],
    drawn: NDArray[np.int32],
    exemplar_category: NDArray[np.int64],
    n_categories: int,
    k: int,
    margin: int,
    category: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Count the redrawn corpora that give each neuron the category it has.

    Args:
        ids: (neurons, K) exemplar ids, best first.
        drawn: (draws, exemplars) how often each exemplar is there.
        exemplar_category: (exemplars,) category index of each exemplar id.
        n_categories: number of categories, General (index 0) included.
        k: number of exemplars that vote.
        margin: the threshold m.
        category: (neurons,) category index of each neuron.

    Returns:
        (neurons,) the count, and (neurons,) whether there is a draw with fewer than k of the K exemplars, whose count
        is then of no use.
    """
    kept, short = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_)
    _count_kept(ids, drawn, exemplar_category, k, margin, category, np.zeros(n_categories, np.int64), kept, short)
    return kept, short


@compiled
def _count_kept(
    ids: NDArray[np.int32],
    drawn: NDArray[np.int32],
    exemplar_category: NDArray[np.int64],
    k: int,
    margin: int,
    category: NDArray[np.int64],
    votes: NDArray[np.int64],
    kept: NDArray[np.int64],
    short: NDArray[np.bool_],
) -> None:
    for neuron in range(len(ids)):
        for draw in range(len(drawn)):
            votes[:] = 0
            missing = k
            for exemplar in ids[neuron]:
                taken = min(drawn[draw, exemplar], missing)
                votes[exemplar_category[exemplar]] += taken
                missing -= taken
                if missing == 0:
                    break
            if missing > 0:
                short[neuron] = True
                break
            if _winner(votes, margin) == category[neuron]:
                kept[neuron] += 1


@inlined
def _winner(votes: NDArray[np.int64], margin: int) -> int:
    """The category that leads by `margin`, as `categorise` has it."""
    first, most, second = GENERAL, -1, 0
    for category, number in enumerate(votes):
        if number > most:
            first, most, second = category, number, max(most, 0)
        elif number > second:
            second = number
    return first if most - second >= margin else GENERAL


def neuron_confidence(
    found: Classification, *, k: int | None = None, margin: int | None = None, draws: int = DRAWS, seed: int = 0
) -> pd.DataFrame:
    """Tell how sure the category of every neuron is: columns layer, neuron, category, lead, support.

    Arguments and errors are those of `layer_confidence`.
    """

    def of_layer(layer: int) -> Confidence:
        return layer_confidence(found, layer, k=k, margin=margin, draws=draws, seed=seed)

    layers = [*in_order(of_layer, found.layers, with_torch=False)]
    widths = [len(each.category) for each in layers]
    codes = np.concatenate([each.category for each in layers])
    return pd.DataFrame(
        {
            "layer": np.repeat(found.layers, widths),
            "neuron": np.concatenate([np.arange(width) for width in widths]),
            "category": pd.Categorical.from_codes(codes, list(found.categories)),
            "lead": np.concatenate([each.lead for each in layers]),
            "support": np.concatenate([each.support for each in layers]),
        }
    )


def confident_counts(neurons: Mapping[str, pd.DataFrame], least: float) -> pd.DataFrame:
    """Count the neurons whose category is sure: those with at least this support.

    Args:
        neurons: what `neuron_confidence` gives of each model by its label, models of one shape.
        least: the least support, 0 to 1.

    Returns:
        As `classification.compare` has all of them: layer, category, a column of counts per model, intersection (of
        those that have one category in every model, and are sure of it in each).
    """
    tables = [*neurons.values()]
    layers, at = np.unique(tables[0]["layer"], return_inverse=True)
    names = [*tables[0]["category"].cat.categories]
    cells = {label: at * len(names) + table["category"].cat.codes.to_numpy() for label, table in neurons.items()}
    sure = {label: table["support"].to_numpy() >= least for label, table in neurons.items()}
    cells["intersection"] = first = next(iter(cells.values()))  # (neurons,) a number per layer and category
    sure["intersection"] = np.logical_and.reduce([*sure.values(), *(own == first for own in cells.values())])
    counts = {name: np.bincount(own[sure[name]], minlength=len(layers) * len(names)) for name, own in cells.items()}
    return pd.DataFrame({"layer": np.repeat(layers, len(names)), "category": names * len(layers), **counts})
