"""All neurons of a classification as a table: what they are, how surely, how strong and how choosy."""

import numpy as np
import pandas as pd

from nmerge_core.activations.store import Classification
from nmerge_core.classification.categories import categorise

DEAD = 0.01  # of the layer's middle largest score, below which a neuron hardly reacts to any text


def overview(found: Classification) -> pd.DataFrame:
    """Return a row per neuron, layer by layer, of what the stored top exemplars tell.

    Columns: layer, neuron, category (categorical, General first), votes (of the leading category, of k), lead (over
    the runner-up), score (the largest), selectivity (the share of all stored texts, its strongest, that are of its
    category), dead (the largest score is below 1 % of the layer's median of it).
    """
    frames = [_of_layer(found, layer) for layer in found.layers]
    return pd.concat(frames, ignore_index=True)


def _of_layer(found: Classification, layer: int) -> pd.DataFrame:
    ids, values = found.top(layer)  # (d_ffn, K)
    k, margin = found.meta["top_k"], found.meta["margin"]
    category, counts = categorise(ids, found.exemplar_categories, len(found.categories), k, margin)
    ranked = np.sort(counts, axis=1)
    votes = ranked[:, -1]
    largest = values[:, 0]
    return pd.DataFrame(
        {
            "layer": np.int16(layer),
            "neuron": np.arange(len(ids), dtype=np.int32),
            "category": pd.Categorical.from_codes(category, list(found.categories)),
            "votes": votes.astype(np.int16),
            "lead": (votes - (ranked[:, -2] if ranked.shape[1] > 1 else 0)).astype(np.int16),
            "score": largest,
            "selectivity": (found.exemplar_categories[ids] == category[:, None]).mean(axis=1, dtype=np.float32),
            "dead": largest <= DEAD * np.median(largest),
        }
    )
