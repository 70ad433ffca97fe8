"""One neuron of a classification: its category, who voted for it, and the texts that excite it most."""

from nmerge_core.activations.store import Classification
from nmerge_core.categories import categorise
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
    ids, scores = found.top(layer)
    if not 0 <= neuron < len(ids):
        raise InputError(f"neuron {neuron}: expected 0 to {len(ids) - 1}, the neurons of layer {layer}")
    k = found.meta["top_k"] if k is None else k
    margin = found.meta["margin"] if margin is None else margin
    [category], _ = categorise(ids[[neuron]], found.exemplar_categories, len(found.categories), k, margin)
    voters = found.exemplar_categories[ids[neuron, :k]]
    votes = [found.categories[index] for index in voters]
    return Seen(label, found.categories[category], votes, ids[neuron].tolist(), scores[neuron].tolist())
