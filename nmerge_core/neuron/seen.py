"""One neuron of a classification: its category, who voted for it, and its score on every text."""

import numpy as np
from numpy.typing import NDArray

from nmerge_core.activations.store import Classification
from nmerge_core.classification.categories import categorise
from nmerge_core.errors import InputError
from nmerge_core.figures.explorer import Seen


def see(
    found: Classification, label: str, layer: int, neuron: int, *, k: int | None = None, margin: int | None = None
) -> Seen:
    """Look one neuron up, as the model called `label` has it.

    Args:
        found: an opened folder.
        label: what the model is called.
        layer: the layer, from 0.
        neuron: the neuron, from 0.
        k: exemplars that vote; the folder's own by default.
        margin: the threshold m; the folder's own by default.

    Raises:
        InputError: there is no such layer or neuron, or k or margin is out of range.
    """
    scores = scores_of(found, layer, neuron)  # (exemplars,)
    ids = np.argsort(-scores, kind="stable")  # equal ones in order of id, as the stored top exemplars are
    k = found.meta["top_k"] if k is None else k
    margin = found.meta["margin"] if margin is None else margin
    [category], _ = categorise(ids[None], found.exemplar_categories, len(found.categories), k, margin)
    votes = [found.categories[index] for index in found.exemplar_categories[ids[:k]]]
    return Seen(label, found.categories[category], votes, ids.tolist(), scores[ids].tolist())


def reached(found: Classification, layer: int, neuron: int) -> dict[int, int]:
    """Return the token at which the score of each stored exemplar of a neuron was reached, by its id."""
    tokens = found.positions(layer)[neuron].tolist()
    return dict(zip(found.top(layer)[0][neuron].tolist(), tokens, strict=True))


def scores_of(found: Classification, layer: int, neuron: int) -> NDArray[np.float64]:
    """Return (exemplars,): the score a_j(s) of one neuron on every exemplar.

    Raises:
        InputError: there is no such layer or neuron.
    """
    if layer not in found.layers:
        raise InputError(f"{found.folder}: no layer {layer}; it has layers {found.layers[0]} to {found.layers[-1]}")
    width = found.widths[layer]
    if not 0 <= neuron < width:
        raise InputError(f"neuron {neuron}: expected 0 to {width - 1}, the neurons of layer {layer}")
    return found.scores(layer, np.array([neuron]))[:, 0]
