"""From a recipe's `tokenizer` and its models' tokens to the merged vocabulary: its rows, and whose tokenizer it has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nmerge_core.checkpoints import Checkpoint, label, labels
from nmerge_core.checkpoints.token_rows import Fill, VocabularyMap, map_rows
from nmerge_core.checkpoints.tokenizer_files import Extension, extend
from nmerge_core.checkpoints.vocabulary import (
    Flags,
    Vocabulary,
    compare,
    known_vocabulary,
    read_vocabulary,
    some,
    vocabulary_of,
)
from nmerge_core.errors import InputError, shown
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.recipe.tokenizer_choice import BASE, UNION, TokenSource

_SPECIAL = "_token_id"  # ends the keys of a configuration that hold ids of tokens


@dataclass(frozen=True)
class MergedVocabulary:
    """The model whose tokenizer the merge has, its tokens, those appended to them, and where rows come from.

    `rows` is None where every model has the same token in the same row; rows are then merged by position, like those of
    any other tensor.
    """

    tokenizer: Checkpoint
    own: Vocabulary | None = None
    appended: Mapping[str, Flags] = field(default_factory=dict)
    rows: VocabularyMap | None = None
    warnings: tuple[str, ...] = ()

    def extension(self) -> Extension | None:
        """Return the tokenizer with the appended tokens; None where there are none.

        Raises:
            InputError: the tokenizer cannot take them.
        """
        return extend(self.tokenizer.folder, self.own, self.appended) if self.own and self.appended else None

    def ids(self) -> Mapping[str, int] | None:
        """Return the id of each of the merge's tokens that has a row; None where no tokenizer tells them."""
        own = self.own or known_vocabulary(self.tokenizer)
        if own is None:
            return None
        appended = {token: own.next_id + place for place, token in enumerate(self.appended)}
        rows = self.rows.rows if self.rows else own.rows
        return {token: id for token, id in {**own.ids, **appended}.items() if id < rows}

    def config(self, donor: Checkpoint) -> dict[str, Any]:
        """Return the donor's configuration with the size of this vocabulary and its tokenizer's special ids."""
        config = dict(donor.config)
        if self.tokenizer is not donor:
            ids = {key: id for key, id in self.tokenizer.config.items() if key.endswith(_SPECIAL)}
            config = {key: value for key, value in config.items() if not key.endswith(_SPECIAL)} | ids
        return config | ({"vocab_size": self.rows.rows} if self.rows else {})

    def report(self, checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
        """Say for nmerge_report.json where rows came from, if not from the same row of every model."""
        if self.rows is None:
            return {}
        names = labels([checkpoint.reference for checkpoint in checkpoints])
        matched = (self.rows.sources >= 0).sum(axis=1).tolist()
        facts = {
            "tokenizer": self.tokenizer.reference,
            "rows": self.rows.rows,
            "appended": list(self.appended),
            "rows_found_in": dict(zip(names, matched, strict=True)),
        }
        return {"vocabulary": facts}


def merged_vocabulary(recipe: Recipe, checkpoints: Sequence[Checkpoint]) -> MergedVocabulary:
    """Find the vocabulary that a recipe asks for; `checkpoints` are its models, the base first where it is named.

    Without the key `tokenizer` the merge has the first one's tokenizer, and rows are merged by position.

    Raises:
        InputError: the recipe has no such key and equal rows are not equal tokens, or what it asks for cannot be made.
    """
    choice, first = recipe.tokenizer, checkpoints[0]
    if choice is None:
        warnings = by_position(first, checkpoints[1:])
        return MergedVocabulary(first, rows=_without_padding(checkpoints), warnings=warnings)
    names = [checkpoint.reference for checkpoint in checkpoints]
    source = _source(choice.source, names)
    vocabularies = _vocabularies(checkpoints)
    if not vocabularies and (choice.source == UNION or choice.tokens):
        raise InputError(f"{first.folder}: no tokenizer.json to match tokens by, nor in the other models' folders")
    if not vocabularies:
        return MergedVocabulary(checkpoints[source])
    own = vocabularies[source]
    appended = _missing(own, vocabularies, names) if choice.source == UNION else {}
    for token, origin in choice.tokens.items():
        if token not in own.ids and token not in appended:
            appended[token] = _flags(token, origin, vocabularies, names)
    fills = {token: _fill(token, origin, vocabularies, names) for token, origin in choice.tokens.items()}
    rows = map_rows(vocabularies, source, tuple(appended), fills)
    if rows and "vocab_size" not in first.config:
        raise InputError(
            f"{first.reference}: expected 'vocab_size' in config.json, found it in no place that a merge can change; "
            "this family's vocabularies cannot be matched by token yet"
        )
    return MergedVocabulary(checkpoints[source], own, appended, rows)


def by_position(base: Checkpoint, models: Sequence[Checkpoint]) -> tuple[str, ...]:
    """Check that rows can be merged by position, and return what is to be said of tokens that only some models name."""
    ours = known_vocabulary(base)
    pairs = [(label(model.reference), known_vocabulary(model, ours)) for model in models]
    found = [(name, compare(ours, theirs)) for name, theirs in pairs if theirs] if ours else []
    differences = [(name, difference) for name, difference in found if difference]
    if conflicting := [difference.describe(name) for name, difference in differences if difference.conflicting]:
        raise InputError(
            "recipe, key 'tokenizer': missing, and these models do not have the base's vocabulary:\n  "
            + "\n  ".join(conflicting)
        )
    return tuple(difference.describe(name) for name, difference in differences)


def _without_padding(checkpoints: Sequence[Checkpoint]) -> VocabularyMap | None:
    """Match the rows of models whose embeddings are padded to other numbers of rows than the first one's."""
    ours = known_vocabulary(checkpoints[0])
    found = [known_vocabulary(checkpoint, ours) for checkpoint in checkpoints]
    known = [each for each in found if each]
    if len(known) < len(found) or len({each.rows for each in known}) == 1:
        return None
    return map_rows(known, 0)


def _source(source: str, names: Sequence[str]) -> int:
    """Return the position of the model whose tokenizer is meant."""
    if source in (UNION, BASE):  # the base, where there is one, is the first
        return 0
    if source not in names:
        raise InputError(
            f"recipe, key 'tokenizer': expected {BASE}, {UNION} or one of {', '.join(names)}; found {source}"
        )
    return names.index(source)


def _vocabularies(checkpoints: Sequence[Checkpoint]) -> list[Vocabulary]:
    """Read every model's tokens; one without a tokenizer is taken to have the first one's.

    Models without a tokenizer that have too few rows for these were refused before. Returns nothing where no model has
    a tokenizer.
    """
    first = read_vocabulary(checkpoints[0])
    if first is None and any(map(read_vocabulary, checkpoints)):
        raise InputError(f"{checkpoints[0].folder}: no tokenizer.json to match tokens by; save its tokenizer there")
    found = [vocabulary_of(checkpoint, first) for checkpoint in checkpoints]
    return [vocabulary for vocabulary in found if vocabulary]


def _missing(own: Vocabulary, vocabularies: Sequence[Vocabulary], names: Sequence[str]) -> dict[str, Flags]:
    """Return the tokens that a union appends, with their flags: in the models' order, each model's by their ids."""
    appended: dict[str, Flags] = {}
    for vocabulary, name in zip(vocabularies, names, strict=True):
        new = [token for token in vocabulary.row if token not in own.ids and token not in appended]
        _check_added(vocabulary, name, new)
        appended |= {token: vocabulary.added[token] for token in sorted(new, key=vocabulary.ids.__getitem__)}
    return appended


def _flags(token: str, origin: TokenSource, vocabularies: Sequence[Vocabulary], names: Sequence[str]) -> Flags:
    """Return the flags of a token that a recipe adds: those of its source, else of the first model that has it."""
    order = sorted(zip(vocabularies, names, strict=True), key=lambda each: each[1] != origin.model)
    for vocabulary, name in order:
        if token in vocabulary.ids:
            _check_added(vocabulary, name, [token])
            return vocabulary.added[token]
    return {}


def _check_added(vocabulary: Vocabulary, name: str, tokens: Sequence[str]) -> None:
    """Check that another tokenizer can take over a model's tokens."""
    if trained := [repr(token) for token in tokens if token not in vocabulary.added]:
        raise InputError(
            f"recipe, key 'tokenizer': cannot append {len(trained):,} tokens of {name} ({some(trained)}) to another "
            "tokenizer: they are of its trained vocabulary, which splits texts its own way; choose base or this model"
        )


def _fill(token: str, origin: TokenSource, vocabularies: Sequence[Vocabulary], names: Sequence[str]) -> Fill:
    if origin.model is None:
        return Fill(None, origin.force)
    where = f"recipe, key 'tokenizer.tokens.{token}.source'"
    if origin.model not in names:
        raise InputError(f"{where}: this method does not read {origin.model}; expected one of {', '.join(names)}")
    position = names.index(origin.model)
    vocabulary = vocabularies[position]
    if isinstance(origin.token, int):
        row = origin.token if 0 <= origin.token < vocabulary.rows else None
    else:
        row = vocabulary.row.get(origin.token or token)
    if row is None:
        wanted = token if origin.token is None else origin.token
        raise InputError(f"{where}: expected a token of {origin.model}, found {shown(wanted)}, which has no row there")
    return Fill((position, row), origin.force)
