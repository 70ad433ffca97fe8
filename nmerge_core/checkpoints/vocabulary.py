"""The tokens of a model, read from its tokenizer's files, and how two models' tokens differ."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.checkpoints.json_file import is_count, read_json
from nmerge_core.errors import InputError, shown

# Tensors with a row (in a bias, an entry) per token, as transformers' decoders name them.
_TOKEN_TENSOR = re.compile(
    r"(?:^|\.)(?:embed_tokens|embed_in|embed_out|wte|shared|word_embeddings|token_embedding|lm_head)\.(?:weight|bias)$"
)
TOKENIZER, CONFIG, ADDED = "tokenizer.json", "tokenizer_config.json", "added_tokens.json"
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_LISTED = 3  # tokens named in a message before "and N more"

Flags = Mapping[str, bool]  # how an added token is matched in a text, by the names of the `tokenizers` library


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's tokens beside the rows of its model: id by token, and the flags of those added after training.

    A token whose id is at least `rows` has no row; a row that no token names is padding.
    """

    ids: Mapping[str, int]
    added: Mapping[str, Flags]
    rows: int

    @cached_property
    def row(self) -> Mapping[str, int]:
        """The row of each token that has one."""
        return self.ids if self.next_id <= self.rows else {t: id for t, id in self.ids.items() if id < self.rows}

    @cached_property
    def by_id(self) -> Mapping[int, str]:
        """The token of each id."""
        return {id: token for token, id in self.ids.items()}

    @property
    def next_id(self) -> int:
        """The id that a token appended to the tokenizer gets."""
        return max(self.ids.values(), default=-1) + 1


@dataclass(frozen=True)
class Difference:
    """How a model's vocabulary differs from its base's: tokens by what became of them, and embedding rows of both."""

    added: tuple[str, ...]
    missing: tuple[str, ...]
    moved: tuple[str, ...]
    trained: tuple[str, ...]  # of `added`, those that no tokenizer can take over: its merges make them
    rows: tuple[int, int]  # base, model
    reused: bool  # whether some id names one token in the base and another in the model

    @property
    def conflicting(self) -> bool:
        """Whether equal row numbers do not mean equal tokens, so that rows cannot be merged by position."""
        resized = self.rows[0] != self.rows[1] and bool(self.added or self.missing)
        return resized or bool(self.moved) or self.reused

    @property
    def padding(self) -> bool:
        """Whether only rows that no token names differ in number: embeddings padded to another multiple."""
        return not (self.added or self.missing or self.moved or self.reused)

    def describe(self, model: str) -> str:
        """Say how the model's vocabulary differs and which `tokenizer` of a recipe makes a merge of it."""
        ours, theirs = self.rows
        parts = [
            f"{len(tokens):,} {what} ({some([repr(token) for token in tokens])})"
            for what, tokens in (("added", self.added), ("missing", self.missing), ("at other ids", self.moved))
            if tokens
        ]
        if self.padding:
            return (
                f"{model}: the base's tokens in {theirs:,} embedding rows where the base has {ours:,}; a merge has the "
                "base's, and rows that no token of it names are its own"
            )
        tokens = f"tokens {', '.join(parts)}"
        rows = f", {theirs:,} embedding rows where the base has {ours:,}" if ours != theirs else ""
        union = ", 'union' for all of them" if self.added and not self.trained else ""
        choices = f"'base' for the base's tokens, '{model}' for its own{union}"
        if self.conflicting:
            need = "a recipe needs the key 'tokenizer'"
        else:
            need = "a merge has the base's unless a recipe has the key 'tokenizer'"
        return f"{model}: its vocabulary is not the base's: {tokens}{rows}; {need}: {choices}"


def counts_tokens(name: str) -> bool:
    """Whether a tensor's first axis counts tokens: embeddings, the head and its bias."""
    return bool(_TOKEN_TENSOR.search(name))


def some(items: Sequence[str]) -> str:
    """List the first few items and count the rest."""
    shown = "; ".join(items[:_LISTED])
    return f"{shown}; and {len(items) - _LISTED:,} more" if len(items) > _LISTED else shown


def compare(base: Vocabulary, model: Vocabulary) -> Difference | None:
    """Compare the tokens that have a row in two models; None where they agree, and the numbers of rows too."""
    ours, theirs = base.row, model.row
    if ours == theirs and base.rows == model.rows:
        return None
    by_id = {id: token for token, id in ours.items()}
    added = tuple(token for token in theirs if token not in ours)
    return Difference(
        added=added,
        missing=tuple(token for token in ours if token not in theirs),
        moved=tuple(token for token, id in theirs.items() if ours.get(token, id) != id),
        trained=tuple(token for token in added if token not in model.added),
        rows=(base.rows, model.rows),
        reused=any(by_id.get(id, token) != token for token, id in theirs.items()),
    )


def read_vocabulary(checkpoint: Checkpoint) -> Vocabulary | None:
    """Read a model's tokens; None where it has no tokenizer.json.

    Raises:
        InputError: the tokenizer's files are not what they should be, or embeddings and head differ in rows.
    """
    folder = checkpoint.folder
    if not (folder / TOKENIZER).exists():
        return None
    files = [file for name in (TOKENIZER, CONFIG, ADDED) if (file := folder / name).exists()]
    return _read(tuple((file, file.stat().st_mtime_ns) for file in files), embedding_rows(checkpoint))


def known_vocabulary(checkpoint: Checkpoint, base: Vocabulary | None = None) -> Vocabulary | None:
    """Read a model's tokens as `vocabulary_of` does; None where they are not known or cannot be read."""
    try:
        return vocabulary_of(checkpoint, base)
    except InputError:
        return None


def embedding_rows(checkpoint: Checkpoint) -> int:
    """Return how many rows the embeddings, and the head where there is one, have.

    Raises:
        InputError: they differ, or there are no embeddings.
    """
    found = {tensor.rows: tensor.name for tensor in checkpoint.tensors.values() if counts_tokens(tensor.name)}
    if len(found) != 1:
        rows = "; ".join(f"{name}: {count:,}" for count, name in found.items()) or "no embeddings"
        raise InputError(
            f"{checkpoint.reference}: expected as many rows in the head as in the embeddings, found {rows}"
        )
    return next(iter(found))


def vocabulary_of(checkpoint: Checkpoint, base: Vocabulary | None) -> Vocabulary | None:
    """Read a model's tokens; where it has no tokenizer those of its base, if it has a row for each of them.

    Raises:
        InputError: as `read_vocabulary`.
    """
    own = read_vocabulary(checkpoint)
    if own or base is None:
        return own
    rows = embedding_rows(checkpoint)
    return replace(base, rows=rows) if base.next_id <= rows else None


@lru_cache(maxsize=16)
def _read(files: tuple[tuple[Path, int], ...], rows: int) -> Vocabulary:
    """Read a tokenizer's files; the times in `files` make the cache forget a rewritten one."""
    ids: dict[str, int] = {}
    added: dict[str, Flags] = {}
    for file, _ in files:
        content = read_json(file, "the tokenizer has it")
        try:
            if file.name == TOKENIZER:
                vocabulary = content["model"].get("vocab", {})
                mapping = isinstance(vocabulary, Mapping)
                ids |= vocabulary if mapping else {pair[0]: id for id, pair in enumerate(vocabulary)}
            _add(_added_tokens(file.name, content), ids, added)
            if odd := next((item for item in ids.items() if not _is_token(*item)), None):
                raise ValueError(f"expected texts and whole numbers, found {shown(odd[0])}: {shown(odd[1])}")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(
                f"{file}: expected a tokenizer in JSON, found something else ({type(error).__name__}: {error}); "
                "tokens cannot be compared"
            ) from error
    return Vocabulary(ids, added, rows)


def _is_token(token: Any, id: Any) -> bool:
    return isinstance(token, str) and is_count(id)


def _added_tokens(name: str, content: Any) -> Iterable[tuple[str, int, Mapping[str, Any]]]:
    """Return text, id and flags of every added token in a tokenizer's file of that name."""
    if name == TOKENIZER:
        return [(token["content"], token["id"], token) for token in content.get("added_tokens", ())]
    if name == CONFIG:
        entries = content.get("added_tokens_decoder", {}).items()
        return [(token["content"], int(id), token) for id, token in entries]
    return [(token, id, {}) for token, id in content.items()]


def _add(tokens: Iterable[tuple[str, int, Mapping[str, Any]]], ids: dict[str, int], added: dict[str, Flags]) -> None:
    """Note added tokens; what an earlier file says of a token stands, as it does for transformers."""
    for token, id, flags in tokens:
        ids.setdefault(token, id)
        added.setdefault(token, {flag: bool(flags[flag]) for flag in _FLAGS if flag in flags})
