"""Which rows of which models a merged vocabulary's rows come from: matched by the tokens' texts, never by ids."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nmerge_core.checkpoints.vocabulary import Vocabulary, some
from nmerge_core.errors import InputError

Place = tuple[int, int] | None  # a model's position and its row; None is a row of zeros


@dataclass(frozen=True)
class Fill:
    """What models without a token hold in its row instead, and with `force` those that have it too."""

    place: Place
    force: bool = False


@dataclass(frozen=True, eq=False)
class VocabularyMap:
    """Per model and row of the output the model's own row of that token, −1 where it has none: (models, rows) int64.

    `fills` holds what models without a row hold there by a recipe's wish. Everywhere else they agree with the base:
    they hold its row, so that their delta is 0. A token that the base does not have either is, in the base and in every
    model without it, the mean of those that have it, so that deltas are relative to that mean. One owner's row is thus
    taken as it is, and the weight or density that a method gives to changes does not scale a token that only some know.
    This is mergekit's rule too.
    """

    sources: NDArray[np.int64]
    fills: Mapping[int, Place]

    @property
    def rows(self) -> int:
        """The number of rows of the merged embeddings."""
        return self.sources.shape[1]

    @property
    def digest(self) -> str:
        """16 hex digits of where every row comes from."""
        content = self.sources.tobytes() + repr(sorted(self.fills.items())).encode()
        return hashlib.sha256(content).hexdigest()[:16]


def map_rows(
    vocabularies: Sequence[Vocabulary],
    source: int,
    appended: Sequence[str] = (),
    fills: Mapping[str, Fill] | None = None,
) -> VocabularyMap | None:
    """Match every row of the merged vocabulary with rows of the models; None where it is the same row in all.

    Args:
        vocabularies: those of the models, the base's (or without a base the first model's) first.
        source: the position of the model whose tokenizer the merge has. Its rows that no token names, such as the
            padding to a multiple of 64, are its own in the merge, by position.
        appended: tokens that follow its own; they take its padding rows first.
        fills: what models without a token hold in its row, for some tokens.

    Raises:
        InputError: a token has a row in no model.
    """
    own = vocabularies[source]
    if not appended and not fills and all(each.row == own.row and each.rows == own.rows for each in vocabularies):
        return None
    ids = {**own.ids, **{token: own.next_id + place for place, token in enumerate(appended)}}
    rows = max([own.rows, *(ids[token] + 1 for token in (*appended, *(fills or {})))])
    tokens: list[str | None] = [None] * rows
    for token, id in ids.items():
        if id < rows:
            tokens[id] = token
    sources = np.array([[-1 if t is None else each.row.get(t, -1) for t in tokens] for each in vocabularies])
    places: dict[int, Place] = {}
    for row in (row for row, token in enumerate(tokens) if token is None):
        sources[source, row] = row if row < own.rows else -1
        if row >= own.rows:
            places[row] = None
    for token, fill in (fills or {}).items():
        places[ids[token]] = fill.place
        if fill.force:
            sources[:, ids[token]] = -1
    orphans = [repr(tokens[row]) for row in np.flatnonzero((sources < 0).all(axis=0)) if row not in places]
    if orphans:
        raise InputError(
            f"recipe, key 'tokenizer': expected a row of every token in some model, found none for {some(orphans)}; "
            "say under 'tokens' where theirs come from ({source: {kind: zero}} makes rows of zeros)"
        )
    return VocabularyMap(sources, places)


def runs(indices: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Cut row numbers into runs of consecutive ones, (first row, count); the first row of a run of −1 is −1."""
    follows = indices[1:] == indices[:-1] + (indices[:-1] >= 0)
    starts = np.flatnonzero(np.concatenate(([True], ~follows)))
    counts = np.diff(np.append(starts, len(indices)))
    return [(int(first), int(count)) for first, count in zip(indices[starts], counts, strict=True)]
