"""One neuron on images of its classification: its activation at every patch."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from nmerge_core.activations.collect import check_neuron
from nmerge_core.activations.forward import run_body
from nmerge_core.activations.hooks import record_activations
from nmerge_core.activations.reading import read_corpus
from nmerge_core.activations.store import Classification
from nmerge_core.corpus.corpus import Corpus, load_corpus
from nmerge_core.errors import InputError
from nmerge_core.loading import LanguageModel


def image_activations(
    model: LanguageModel, found: Classification, layer: int, neuron: int, ids: Sequence[int]
) -> list[list[float]]:
    """Return one neuron's activation φ at every token of some images of the corpus that it was classified by.

    Args:
        model: the model that was classified.
        found: its classification; `grid` says which token is which patch.
        layer: the layer.
        neuron: the neuron.
        ids: the images; they run as one batch.

    Raises:
        InputError: the corpus is another one by now, or the model has no such layer or neuron.
    """
    check_neuron(model, layer, neuron)
    corpus = _corpus(found.meta["corpus"], found.categories, found.meta["corpus_fingerprint"])
    reading = read_corpus(model, corpus, found.meta["max_length"])
    values: list[list[float]] = []

    def keep(layer: int, activation: Tensor) -> None:
        values.extend(activation[..., neuron].float().tolist())  # (B, T)

    with record_activations(model.model, model.architecture, [layer], keep):
        run_body(model, torch.stack(reading.inputs(ids)), None)
    return values


@lru_cache(maxsize=2)  # every neuron that is looked at has images of the same corpus
def _corpus(reference: str, categories: tuple[str, ...], fingerprint: str) -> Corpus:
    corpus = load_corpus(reference, categories, images=True)
    if corpus.fingerprint != fingerprint:
        raise InputError(f"corpus {reference}: expected the images that the neurons were classified by, found others")
    return corpus
