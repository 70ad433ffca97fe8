"""A text token by token: what a model adds to it, and the neurons that are strongest at each token."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nmerge_core.activations.collect import read_text
from nmerge_core.activations.forward import run_body
from nmerge_core.activations.hooks import record_activations
from nmerge_core.activations.store import Classification
from nmerge_core.answers import Manner, go_on
from nmerge_core.errors import InputError
from nmerge_core.loading import LanguageModel


@dataclass(frozen=True)
class Continued:
    """A text and how a model went on: the ids of all tokens, what the model calls them, and the pieces they stand for.

    `given` is how many of them are the text's.
    """

    ids: list[int]
    names: list[str]
    pieces: list[str]
    given: int


@dataclass(frozen=True)
class Strong:
    """A neuron at a token: its activation φ there, and `share`, |φ| by its largest score on the corpus."""

    layer: int
    neuron: int
    activation: float
    share: float


def continued(language_model: LanguageModel, text: str, more: int, max_length: int = 512) -> Continued:
    """Read a text, at most `max_length` tokens of it, and let the model add at most `more`, greedily.

    Raises:
        InputError: it is no causal language model, or the text has no tokens.
    """
    language_model.check_causal()
    read = read_text(language_model, text, max_length)
    if not read.ids:
        raise InputError("the text is empty: expected at least one token")
    said = go_on(language_model, read.ids, (), more, Manner()).tokens if more else ()
    starts = [str(language_model.tokenizer.decode(list(said[:end]))) for end in range(len(said) + 1)]
    added = [whole[len(before) :] for before, whole in zip(starts, starts[1:], strict=False)]
    ids = [*read.ids, *said]
    return Continued(ids, _names(language_model, ids), [*read.pieces, *added], len(read.ids))


def check_tokens(language_model: LanguageModel, ids: Sequence[int], names: Sequence[str]) -> None:
    """Check that ids are tokens of these names to a model: another tokenizer, or a token it lacks, gives other texts.

    Raises:
        InputError: they are not.
    """
    for id, name, own in zip(ids, names, _names(language_model, ids), strict=True):
        if own != name:
            raise InputError(
                f"{language_model.label}: expected token {id} to be {name!r}, as for the model that read the text, "
                f"found {own or None!r}; models of other tokenizers read it by themselves"
            )


def _names(language_model: LanguageModel, ids: Sequence[int]) -> list[str]:
    """Return what the tokenizer calls each token, "" where it has none."""
    return [name or "" for name in language_model.tokenizer.convert_ids_to_tokens(list(ids))]


def strongest(
    language_model: LanguageModel, found: Classification, ids: Sequence[int], count: int
) -> list[list[Strong]]:
    """Find the `count` neurons of all layers that are strongest at each token, each on its own scale.

    A neuron's scale is its largest score over the corpus that it was classified by: 1 is as strong as on the text that
    excites it most. One whose scores are all 0 is passed over.
    """
    tops: list[tuple[int, Tensor, Tensor, Tensor]] = []  # layer, share, neuron, φ, (T, count) each

    def keep(layer: int, activation: Tensor) -> None:
        phi = activation[0].float()  # (T, d_ffn)
        peaks = torch.from_numpy(found.top(layer, 1)[1][:, 0]).to(phi)  # (d_ffn,)
        shares = torch.where(peaks > 0, phi.abs() / peaks, 0.0)
        best, neurons = shares.topk(min(count, shares.shape[1]))
        tops.append((layer, best.cpu(), neurons.cpu(), phi.gather(1, neurons).cpu()))

    with record_activations(language_model.model, language_model.architecture, found.layers, keep):
        run_body(language_model, torch.tensor([list(ids)]), None)
    return [_best([_at(each, token) for each in tops], count) for token in range(len(ids))]


def _at(top: tuple[int, Tensor, Tensor, Tensor], token: int) -> list[Strong]:
    layer, *columns = top
    rows = zip(*(column[token].tolist() for column in columns), strict=True)
    return [Strong(layer, neuron, activation, share) for share, neuron, activation in rows]


def _best(layers: Sequence[Sequence[Strong]], count: int) -> list[Strong]:
    return sorted((each for layer in layers for each in layer), key=lambda strong: -strong.share)[:count]
