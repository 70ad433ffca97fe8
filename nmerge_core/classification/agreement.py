"""How far two classifications agree: of two models, of two corpora, of two votes, of texts and a labeller."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nmerge_core.activations.store import Classification
from nmerge_core.classification.classification import comparable, neuron_categories
from nmerge_core.comparison.paired import RESAMPLED, Interval
from nmerge_core.errors import InputError

EXACT = "float32"  # the number format that others are held against


@dataclass(frozen=True)
class Agreement:
    """Two classifications of the same neurons.

    Attributes:
        counts: neurons, a row per category of the first and a column per category of the second.
        share: of the neurons that have one category in both.
        kappa: Cohen's κ, what of the agreement beyond that of independent categories there is: 1 in full, 0 by chance;
            NaN where both give all neurons one category.
        iou: of each category the neurons that have it in both, of those that have it in either (NeuronMerge App. D.5);
            NaN where none has it.
    """

    counts: pd.DataFrame
    share: float
    kappa: float
    iou: pd.Series


def agreement(
    first: Classification, second: Classification, *, k: int | None = None, margin: int | None = None
) -> Agreement:
    """Compare the categories that two classifications give to each neuron; their corpora may differ.

    Args:
        first: an opened folder.
        second: another, of a model of the same shape, with the same categories in any order.
        k: exemplars that vote in both; each folder's own by default.
        margin: the threshold m in both; each folder's own by default.

    Raises:
        InputError: the neurons or the categories differ, or k or margin is out of range.
    """
    for what, one, other in (
        ("neurons of each layer", first.widths, second.widths),
        ("categories", sorted(first.categories), sorted(second.categories)),
    ):
        if one != other:
            raise InputError(f"{second.folder}: {what} {other}, expected {one} as in {first.folder}")
    names = first.categories
    voted = [neuron_categories(each, k=k, margin=margin)["category"] for each in (first, second)]
    return agreement_of(pd.crosstab(*voted).reindex(index=names, columns=names, fill_value=0).to_numpy(), names)


def agreements(
    first: Classification, others: Mapping[str, Classification], *, k: int | None = None, margin: int | None = None
) -> pd.DataFrame:
    """Return a row for each of some classifications by its name: model, share, kappa and "IoU NAME" of each category.

    Raises:
        InputError: as `agreement`.
    """
    found = {name: agreement(first, other, k=k, margin=margin) for name, other in others.items()}
    return pd.DataFrame(
        [
            {"model": name, "share": each.share, "kappa": each.kappa, **each.iou.add_prefix("IoU ")}
            for name, each in found.items()
        ]
    )


def rounding(opened: Sequence[Classification], *, k: int | None = None, margin: int | None = None) -> dict[Path, float]:
    """Tell what the number format decides: by folder the share of neurons that have another category in float32.

    Of those that ran in another format and of whose model, on the same texts, there is one in float32 as well.
    """
    exact = [each for each in opened if each.run_dtype == EXACT]
    pairs = [(each, other) for each in opened if each not in exact for other in exact if _same_work(each, other)]
    return {each.folder: 1 - agreement(each, other, k=k, margin=margin).share for each, other in pairs}


def _same_work(one: Classification, other: Classification) -> bool:
    return comparable(one, other) and one.meta["model_fingerprint"] == other.meta["model_fingerprint"]


def agreement_of(counts: NDArray[np.integer], names: Sequence[str]) -> Agreement:
    """Tell the agreement that counts (categories, categories) of neurons show.

    Source: Cohen, Educational and Psychological Measurement 20 (1960): κ = (p_o − p_e) / (1 − p_e), p_o the share on
    the diagonal and p_e that of the product of the margins.
    """
    rows, columns, both, total = counts.sum(axis=1), counts.sum(axis=0), np.diagonal(counts), counts.sum()
    either = rows + columns - both  # (categories,)
    observed, expected = both.sum() / total, float(rows @ columns) / float(total) ** 2
    return Agreement(
        pd.DataFrame(counts, pd.Index(names, name="first"), pd.Index(names, name="second")),
        share=float(observed),
        kappa=float((observed - expected) / (1 - expected)) if expected < 1 else float("nan"),
        iou=pd.Series(np.where(either > 0, both / np.maximum(either, 1), np.nan), pd.Index(names, name="category")),
    )


def kappa_interval(counts: NDArray[np.integer], *, draws: int = 2000, seed: int = 0) -> Interval:
    """Return the 95 % interval of Cohen's κ over the neurons that counts (categories, categories) are of.

    Percentiles of a seeded bootstrap: as many neurons are drawn again, each a cell of the table by its share. Draws in
    which all neurons have one category in both have no κ and are left out; NaN where every draw is such.
    """
    total = int(counts.sum())
    shares = counts.ravel() / total
    drawn = np.random.default_rng(seed).multinomial(total, shares, draws).reshape(draws, *counts.shape)
    expected = (drawn.sum(axis=2) * drawn.sum(axis=1)).sum(axis=1) / total**2  # (draws,)
    observed = np.trace(drawn, axis1=1, axis2=2) / total
    kappas = (observed - expected)[expected < 1] / (1 - expected[expected < 1])
    low, high = np.percentile(kappas, [2.5, 97.5]) if len(kappas) else (np.nan, np.nan)
    return Interval(float(low), float(high), RESAMPLED)
