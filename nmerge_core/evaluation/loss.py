"""The loss of models on held-out texts, text by text: what a merge can be judged by where there are no tasks."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from nmerge_core.checkpoints import labels
from nmerge_core.corpus.held_out import held_out
from nmerge_core.errors import InputError, out_of_memory, shown
from nmerge_core.loading import LanguageModel, load_model
from nmerge_core.number_format import AUTO
from nmerge_core.progress import Progress, silent

COLUMNS = ["model", "category", "text", "loss", "tokens", "run_dtype"]
_BATCH_TOKENS = 4096  # padded tokens of a batch
_LOGITS = 1 << 27  # numbers of a batch's logits: of a vocabulary of 150,000 there are 894 tokens then


@dataclass(frozen=True)
class TextLoss:
    """The mean negative log-likelihood of a text's tokens in nats, and how many they are."""

    nats: float
    tokens: int


@torch.inference_mode()
def text_losses(
    language_model: LanguageModel,
    texts: Sequence[str],
    *,
    max_length: int = 512,
    batch_tokens: int = _BATCH_TOKENS,
    progress: Progress = silent,
) -> list[TextLoss]:
    """Compute −1/n Σ log p(token | all before it) of each text's n tokens, the first given what begins a text.

    That is the tokenizer's token for the beginning of a text or, without one, for its end, as lm-evaluation-harness has
    it. Texts are truncated to `max_length` tokens (or to the model's own limit), padded on the right, where no token
    sees it, and run longest first. The result does not depend on the batches, to the format's rounding.

    Raises:
        InputError: it is no causal language model, a text without tokens, a tokenizer without either of those tokens, a
            loss that is not finite, or a text that does not fit in memory.
    """
    language_model.check_causal()
    tokens = _encode(language_model, texts, max_length)
    vocabulary = language_model.model.config.get_text_config().vocab_size
    budget = min(batch_tokens, max(1, _LOGITS // vocabulary))
    order = sorted(range(len(tokens)), key=lambda place: -len(tokens[place]))
    found: dict[int, TextLoss] = {}
    while len(found) < len(order):
        progress(f"Loss of {language_model.label}", len(found), len(order), "texts")
        longest = len(tokens[order[len(found)]])
        batch = order[len(found) : len(found) + max(1, budget // longest)]
        try:
            losses = _batch_losses(language_model, [tokens[place] for place in batch])
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if len(batch) == 1:
                raise InputError(
                    f"a text of {longest} tokens does not fit in memory; lower the maximum length"
                ) from None
            budget = len(batch) * longest // 2
            torch.cuda.empty_cache()
            continue
        for place, loss in zip(batch, losses, strict=True):
            if not math.isfinite(loss):
                raise InputError(f"{language_model.label}: its loss on {shown(texts[place])} is not finite ({loss})")
            found[place] = TextLoss(loss, len(tokens[place]) - 1)
    progress(f"Loss of {language_model.label}", len(order), len(order), "texts")
    return [found[place] for place in range(len(texts))]


def _encode(language_model: LanguageModel, texts: Sequence[str], max_length: int) -> list[Tensor]:
    """Return the tokens of each text after what begins one, (1 + n,) each."""
    tokenizer = language_model.tokenizer
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if begin is None:
        raise InputError(
            f"{language_model.label}: expected a tokenizer with a token for the beginning or the end of a text, found "
            "neither; name one in its tokenizer_config.json"
        )
    longest = language_model.longest(max_length)
    encoded = tokenizer(list(texts), truncation=True, max_length=longest, add_special_tokens=False)["input_ids"]
    for text, ids in zip(texts, encoded, strict=True):
        if not ids:
            raise InputError(f"{language_model.label}: the text {shown(text)} has no tokens; leave it out")
    return [torch.tensor([begin, *ids]) for ids in encoded]


def _batch_losses(language_model: LanguageModel, tokens: Sequence[Tensor]) -> list[float]:
    lengths = torch.tensor([len(each) - 1 for each in tokens])
    inputs = pad_sequence([each[:-1] for each in tokens], batch_first=True)  # (B, T)
    real = torch.arange(inputs.shape[1]) < lengths[:, None]  # (B, T)
    logits = language_model.model(
        input_ids=inputs.to(language_model.device),
        attention_mask=real.long().to(language_model.device),
        use_cache=False,
    ).logits  # (B, T, vocabulary)
    losses = [
        cross_entropy(own[: len(each) - 1].float(), each[1:].to(logits.device))
        for own, each in zip(logits, tokens, strict=True)
    ]
    return torch.stack(losses).tolist()


def held_out_losses(
    models: Sequence[str],
    corpus: str,
    *,
    max_length: int = 512,
    device: str = "auto",
    run_dtype: str = AUTO,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Compute the losses of models, one after the other, on a corpus's held-out texts.

    Returns:
        Columns model, category, text (its place among the held-out texts of its category), loss (nats a token), tokens,
        run_dtype.

    Raises:
        InputError: as `held_out`, `load_model` and `text_losses`.
    """
    chosen = held_out(corpus).corpus.exemplars
    places = pd.DataFrame({"category": [each.category for each in chosen]})
    places["text"] = places.groupby("category").cumcount()
    frames = []
    for reference, label in zip(models, labels(models), strict=True):
        loaded = dataclasses.replace(load_model(reference, device, run_dtype), label=label)
        found = text_losses(loaded, [each.text for each in chosen], max_length=max_length, progress=progress)
        own = {"loss": [each.nats for each in found], "tokens": [each.tokens for each in found]}
        frames.append(places.assign(model=label, run_dtype=loaded.run_dtype, **own)[COLUMNS])
    return pd.concat(frames, ignore_index=True)
