"""Small checkpoints with tokens of their own: the tokenizer's files and a row per token."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from tests.merging import checkpoints

Weights = dict[str, torch.Tensor]
BY_TOKEN = ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias")
TRAINED = ["<|endoftext|>", *"abcdefghijklmno"]


def write_tokenizer(folder: Path, tokens: Sequence[str | None], **flags: bool) -> None:
    """Write a tokenizer of one-letter tokens; those in angle brackets are added ones, None is an id without token."""
    own = {token: id for id, token in enumerate(tokens) if token}
    added = [
        {"id": id, "content": token, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False, "special": True, **flags}
        for token, id in own.items()
        if token.startswith("<")
    ]
    trained = {token: id for token, id in own.items() if not token.startswith("<") or id == 0}
    content = {
        "version": "1.0",
        "added_tokens": added,
        "model": {"type": "BPE", "vocab": trained, "merges": []},
        "decoder": {"type": "Fuse"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def with_tokens(
    folder: Path,
    seed: int,
    tokens: Sequence[str | None],
    rows: int | None = None,
    *,
    tied: bool = False,
    **more: Any,
) -> tuple[str, Weights]:
    """Write a fine-tune with these tokens, `rows` rows in embeddings and (untied) head; return it and its weights."""
    rows = rows or len(tokens)
    base = checkpoints.random_weights(0)
    weights = base if seed == 0 else checkpoints.fine_tuned(base, seed)
    generator = torch.Generator().manual_seed(100 + seed)
    weights["model.embed_tokens.weight"] = torch.randn(rows, checkpoints.D_MODEL, generator=generator)
    if not tied:
        weights["lm_head.weight"] = torch.randn(rows, checkpoints.D_MODEL, generator=generator)
        weights["lm_head.bias"] = torch.randn(rows, generator=generator)
    write_tokenizer(folder, tokens)
    return checkpoints.write(folder, weights, vocab_size=rows, tie_word_embeddings=tied, **more), weights


def make_family(root: Path) -> SimpleNamespace:
    """A base padded by 4 rows; math with two tokens more; code with moved ids, a token less, two more; one as the base.

    `<x>` is in math and code, `<m>` and `<c>` in one each; `n` is in base, math and plain alone.
    """
    tokens = {
        "base": [*TRAINED, None, None, None, None],
        "math": [*TRAINED, "<m>", "<x>"],
        "code": ["<|endoftext|>", *"onmlkjihgfedcba".replace("n", ""), "<x>", "<c>", None],
        "plain": [*TRAINED, None, None, None, None],
    }
    made = {name: with_tokens(root / name, seed, own) for seed, (name, own) in enumerate(tokens.items())}
    return SimpleNamespace(
        root=root,
        tokens=tokens,
        weights={name: weights for name, (_, weights) in made.items()},
        base=made["base"][0],
        models=[made[name][0] for name in ("math", "code", "plain")],
        neurons=checkpoints.categories(root / "neurons", ["general", "math", "code", "plain"]),
    )
