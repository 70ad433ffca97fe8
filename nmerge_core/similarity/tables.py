"""Tables of what fine-tunes changed in neurons: where they disagree, and the means of layers."""

from collections.abc import Collection
from itertools import product

import numpy as np
import pandas as pd

_DISAGREE = ["opposed", "cosine"]  # what tells how far two fine-tunes disagree in a neuron


def conflicts(between: pd.DataFrame, among: Collection[str] | None = None) -> pd.DataFrame:
    """Rank neurons by how far fine-tunes disagree in them: the means over every two of them.

    Args:
        between: one, other, layer, neuron, cosine, opposed, as `measure.cosine` gives.
        among: the fine-tunes that count; all by default.

    Returns:
        layer, neuron, opposed, cosine, the most opposed first; NaN, and last, where no two changed the same weight.
    """
    kept = between if among is None else between[between["one"].isin(among) & between["other"].isin(among)]
    if kept.empty:
        return kept[["layer", "neuron", *_DISAGREE]]
    one, other = kept["one"].astype("category"), kept["other"].astype("category")
    sums = known = np.zeros((1, 2))
    # Two fine-tunes at a time: a dozen of a large model have tens of millions of rows.
    for first, second in product(one.cat.categories, other.cat.categories):
        own = kept[(one == first) & (other == second)]  # the same neurons in the same order for every two
        if len(own):
            places, values = own[["layer", "neuron"]], own[_DISAGREE].to_numpy(np.float64)  # (neurons, 2)
            sums, known = sums + np.nan_to_num(values), known + ~np.isnan(values)
    means = np.divide(sums, known, out=np.full_like(sums, np.nan), where=known > 0)
    found = places.assign(**dict(zip(_DISAGREE, means.T.astype(np.float32), strict=True)))
    return found.sort_values(_DISAGREE, ascending=[False, True], kind="stable", ignore_index=True)


def layer_means(
    frame: pd.DataFrame, quantity: str, of: tuple[str, ...] = (), categories: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Average a quantity over the neurons of each layer that have it: a row for each fine-tune, or each two.

    Args:
        frame: a row for each neuron of each model, or of `one` and `other`, as `measure.cosine` gives.
        quantity: the column.
        of: one model, or two in either order, whose neurons alone are averaged, of each category by itself.
        categories: layer, neuron, category; needed with `of`.

    Returns:
        row (the model, both of two, or the category), layer, neurons (those that have it), value (NaN where none has).
    """
    keys = [each for each in ("model", "one", "other") if each in frame]
    if of and categories is not None:
        own = frame[(frame[keys] == list(of)).all(axis=1) | (frame[keys] == list(of[::-1])).all(axis=1)]
        frame, keys = own.merge(categories[["layer", "neuron", "category"]], on=["layer", "neuron"]), ["category"]
    groups = frame.groupby([*keys, "layer"], observed=True)[quantity]
    found = groups.agg(neurons="count", value="mean").reset_index()
    rows = [" and ".join(map(str, names)) for names in found[keys].itertuples(index=False)]
    return found.assign(row=rows)[["row", "layer", "neurons", "value"]]
