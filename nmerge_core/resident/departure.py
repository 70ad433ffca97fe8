"""Where a merge departs from one of its models: in what comes next, and in the neurons that fire."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from nmerge_core.activations.collect import Tokens, read_text
from nmerge_core.activations.hooks import record_activations
from nmerge_core.errors import InputError
from nmerge_core.loading import LanguageModel


@dataclass(frozen=True)
class Next:
    """A token that may come next, as text, and how probable each of some models finds it."""

    token: str
    probabilities: list[float]


def read_alike(models: Sequence[LanguageModel], text: str, max_length: int) -> Tokens:
    """Return the tokens of a text, at most `max_length`, which all of some models read alike.

    Raises:
        InputError: one is no causal language model, or reads it in other tokens than the first, or it has none.
    """
    for model in models:
        model.check_causal()
    first, *others = models
    read = read_text(first, text, max_length)
    if not read.ids:
        raise InputError("the text is empty: expected at least one token")
    for model in others:
        if read_text(model, text, max_length).ids != read.ids:
            raise InputError(f"{model.label} reads this text in other tokens than {first.label}: nothing to compare")
    return read


def read_until(models: Sequence[LanguageModel], text: str, token: int, max_length: int) -> list[int]:
    """Return the tokens of a text up to one of them, which all of some models read alike.

    Raises:
        InputError: there is no such token, or as `read_alike`.
    """
    ids = read_alike(models, text, max_length).ids
    if not 0 <= token < len(ids):
        raise InputError(f"token {token}: expected one of the {len(ids)} tokens of the text, which count from 0")
    return ids[: token + 1]


@torch.inference_mode()
def log_probabilities(language_model: LanguageModel, ids: Sequence[int]) -> Tensor:
    """Return the log-probabilities of what comes after each token, (T, vocabulary) float32.

    Raises:
        InputError: they are not finite.
    """
    tokens = torch.tensor([ids], device=language_model.device)
    logits: Tensor = language_model.model(input_ids=tokens, use_cache=False).logits[0].float()
    if not logits.isfinite().all():
        raise InputError(
            f"{language_model.label}: its output is not finite in {language_model.run_dtype}; lower weights and lambda"
        )
    return logits.log_softmax(dim=-1)


def divergence(merge: Tensor, model: Tensor) -> Tensor:
    """Return KL(merge ‖ model) = Σ_v p_merge(v) log(p_merge(v) / p_model(v)) at each token, in nats, (T,).

    It is of the merge's own distribution: large where the merge would say what the model would hardly ever say, and
    small where the merge merely leaves out something that the model might have said.

    Args:
        merge, model: log-probabilities, (T, vocabulary); where one has more tokens the first that both have count.
    """
    common = min(merge.shape[-1], model.shape[-1])
    ours, theirs = (each[:, :common].log_softmax(dim=-1) for each in (merge, model.to(merge.device)))
    return (ours.exp() * (ours - theirs)).sum(dim=-1).clamp(min=0)  # never negative but by rounding


def likeliest_next(models: Sequence[LanguageModel], ids: Sequence[int], count: int) -> list[Next]:
    """Return what may come after some tokens: all that is among the `count` likeliest of any of some models.

    What the first model finds likeliest comes first. A token that a model does not have has the probability 0 there.
    """
    found = [log_probabilities(model, ids)[-1].exp().cpu() for model in models]  # (vocabulary,) each
    width = max(map(len, found))
    probabilities = torch.stack([torch.nn.functional.pad(each, (0, width - len(each))) for each in found])
    tokens = probabilities.topk(min(count, width)).indices.flatten().unique()
    order = probabilities[0, tokens].argsort(descending=True, stable=True)
    decode = models[0].tokenizer.decode
    return [Next(str(decode([token])), probabilities[:, token].tolist()) for token in tokens[order].tolist()]


def moved_neurons(merge: LanguageModel, model: LanguageModel, ids: Sequence[int], count: int) -> pd.DataFrame:
    """Find the neurons of each layer whose activation φ at the last token differs most between a merge and a model.

    Returns:
        Columns layer, neuron, merge and model (φ in either), at most `count` rows a layer, the largest difference of
        all layers first.

    Raises:
        InputError: the neurons of this family are not known, or one has more layers than the other.
    """
    depths = [len(each.architecture.layers) for each in (merge, model)]
    if len({*depths}) > 1:
        raise InputError(
            f"the merge has {depths[0]} layers and {model.label} {depths[1]}: their neurons are not the same"
        )
    of_merge, of_model = (_last_activations(each, ids) for each in (merge, model))
    rows = []
    for layer, ours in of_merge.items():
        theirs = of_model[layer]
        for neuron in (ours - theirs).abs().topk(min(count, len(ours))).indices.tolist():
            rows.append((layer, neuron, ours[neuron].item(), theirs[neuron].item()))
    frame = pd.DataFrame(rows, columns=["layer", "neuron", "merge", "model"])
    largest = (frame["merge"] - frame["model"]).abs().sort_values(ascending=False, kind="stable")
    return frame.loc[largest.index].reset_index(drop=True)


def _last_activations(language_model: LanguageModel, ids: Sequence[int]) -> dict[int, Tensor]:
    """Return φ of every layer's neurons at the last token, (d_ffn,) float32 each."""
    found: dict[int, Tensor] = {}

    def keep(layer: int, activation: Tensor) -> None:
        found[layer] = activation[0, -1].float().cpu()

    layers = range(len(language_model.architecture.layers))
    tokens = torch.tensor([ids], device=language_model.device)
    with (
        torch.inference_mode(),
        record_activations(language_model.model, language_model.architecture, layers, keep),
    ):
        language_model.model.base_model(input_ids=tokens, use_cache=False)
    return found
