"""The texts that linearity is measured on: a seeded choice per category, packed into batches of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nmerge_core.checkpoints import Checkpoint
from nmerge_core.checkpoints.tokenizer import load_tokenizer
from nmerge_core.corpus.corpus import Corpus, load_corpus
from nmerge_core.errors import InputError

# Padded tokens per batch: enough that interpolating a layer's weights costs little beside its matrix products.
BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Batch:
    """Samples of one category, padded on the right."""

    category: str
    tokens: Tensor  # (B, T) int64
    real: Tensor  # (B, T) bool


def draw(
    corpus: str,
    categories: Sequence[str] | None,
    base: Checkpoint,
    *,
    samples: int,
    max_length: int,
    seed: int,
    batch_tokens: int = BATCH_TOKENS,
) -> list[Batch]:
    """Draw `samples` texts of each category and pack their tokens into batches (`sequences`, `pack`)."""
    loaded = load_corpus(corpus, categories)
    chosen = loaded.categories if categories is None else categories
    drawn = sequences(loaded, chosen, base, samples=samples, max_length=max_length, seed=seed)
    return [batch for category, ids in drawn.items() for batch in pack(category, ids, batch_tokens)]


def sequences(
    corpus: Corpus, categories: Sequence[str], base: Checkpoint, *, samples: int, max_length: int, seed: int
) -> dict[str, list[list[int]]]:
    """Draw `samples` texts of each category and tokenise them with the base model's tokenizer; empty ones are left out.

    The draw depends on the seed and the category's name alone, not on which other categories are asked for.

    Raises:
        InputError: a category gives no token, the base has no tokenizer, or a number is out of range.
    """
    for name, value, least in (("samples", samples, 1), ("max_length", max_length, 1), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"{name}: expected a whole number from {least}, found {value}")
    tokenizer = load_tokenizer(base)
    drawn = {}
    for category in dict.fromkeys(categories):
        texts = [exemplar.text for exemplar in corpus.exemplars if exemplar.category == category]
        rng = np.random.default_rng([seed, *category.encode()])
        chosen = sorted(rng.choice(len(texts), size=min(samples, len(texts)), replace=False))
        ids = tokenizer([texts[index] for index in chosen], truncation=True, max_length=max_length)["input_ids"]
        drawn[category] = [sequence for sequence in ids if sequence]
        if not drawn[category]:
            raise InputError(
                f"{corpus.reference}, category '{category}': expected texts with tokens, found none; fill its texts"
            )
    return drawn


def pack(category: str, ids: Sequence[Sequence[int]], batch_tokens: int = BATCH_TOKENS) -> list[Batch]:
    """Pack token sequences, shortest first, into batches of at most `batch_tokens` (a longer one stands alone)."""
    ordered = sorted((sequence for sequence in ids if sequence), key=len)
    rows: list[list[Sequence[int]]] = []
    for sequence in ordered:
        if rows and (len(rows[-1]) + 1) * len(sequence) <= batch_tokens:
            rows[-1].append(sequence)
        else:
            rows.append([sequence])
    return [_pad(category, batch) for batch in rows]


def _pad(category: str, sequences: Sequence[Sequence[int]]) -> Batch:
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    real = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]  # (B, T)
    tokens = torch.zeros(real.shape, dtype=torch.long)
    tokens[real] = torch.tensor([token for sequence in sequences for token in sequence])
    return Batch(category, tokens, real)
