"""The models of a family under one naming: the base's, with a head in all if any has one of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nmerge_core.architecture import towers
from nmerge_core.architecture.config_keys import TEXT
from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.checkpoints.header import TensorInfo
from nmerge_core.checkpoints.parameters import same_values
from nmerge_core.checkpoints.tying import TIED, embeddings_of, head_of, is_tied


def as_family(base: Checkpoint, models: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Return the base and the models with their tensors under the base's names, as transformers would match them.

    The head of a model that ties it is its embeddings. Where any model has a head of its own that differs from its
    embeddings all have one, and a merge too; where none has, equal copies are dropped.
    """
    return _with_heads([base, *(_named_like(base, model) for model in models)])


def _named_like(base: Checkpoint, model: Checkpoint) -> Checkpoint:
    """Return a model with its tensors under the base's names."""
    tensors = _without_prefix(base.tensors, model.tensors)
    if tensors.keys() != base.tensors.keys() and not _differ_by_head(base.tensors, tensors):
        from nmerge_core.checkpoints.conversion import conversion_of, match  # brings transformers along

        conversion = conversion_of(base.folder)
        if conversion:
            changed = model.adapter.changed if model.adapter else ()
            tensors = match(base.tensors, tensors, conversion, changed)
    return model if tensors is model.tensors else replace(model, tensors=tensors)


def _without_prefix(base: Mapping[str, TensorInfo], own: Mapping[str, TensorInfo]) -> Mapping[str, TensorInfo]:
    """Rename tensors where only a prefix differs.

    A model that was saved with its head has the name of its body before every other tensor's (`transformer.h.0…`),
    one that was saved without has not (`h.0…`).
    """
    ours, theirs = min(towers(own), default=""), min(towers(base), default="")
    if ours.endswith(f".{theirs}"):
        prefix = ours.removesuffix(theirs)
        return {name.removeprefix(prefix): tensor for name, tensor in own.items()}
    if theirs.endswith(f".{ours}"):
        prefix = theirs.removesuffix(ours)
        return {name if name in base else f"{prefix}{name}": tensor for name, tensor in own.items()}
    return own


def _differ_by_head(base: Mapping[str, TensorInfo], own: Mapping[str, TensorInfo]) -> bool:
    apart = base.keys() ^ own.keys()
    return bool(apart) and apart <= {head_of(base), head_of(own)}


def _with_heads(family: list[Checkpoint]) -> list[Checkpoint]:
    heads = [head_of(each.tensors) for each in family]
    name = next((head for head in heads if head), None)
    without = [each for each, head in zip(family, heads, strict=True) if not head]
    if name is None or not without or not all(is_tied(each.config, each.tensors) for each in without):
        return family
    if all(_is_copy(each, head) for each, head in zip(family, heads, strict=True) if head):
        return [_without(each, head) if head else each for each, head in zip(family, heads, strict=True)]
    return [each if head else _with_head(each, name) for each, head in zip(family, heads, strict=True)]


def _is_copy(model: Checkpoint, head: str) -> bool:
    embeddings = embeddings_of(model.tensors)
    if embeddings is None or not (model.as_stored(head) and model.as_stored(embeddings)):
        return False
    return same_values(model.tensors[head], model.tensors[embeddings])


def _without(model: Checkpoint, head: str) -> Checkpoint:
    """Return a model that ties its head, which a merge is then told to do."""
    kept = {name: each for name, each in model.tensors.items() if name != head}
    return replace(model, tensors=kept, config=_saying(model.config, tied=True))


def _with_head(model: Checkpoint, head: str) -> Checkpoint:
    embeddings = embeddings_of(model.tensors)
    assert embeddings  # `is_tied`
    tensors = {**model.tensors, head: model.tensors[embeddings]}
    return replace(model, tensors=tensors, config=_saying(model.config, tied=False))


def _saying(config: Mapping[str, Any], *, tied: bool) -> dict[str, Any]:
    """Return a configuration that says whether head and embeddings are tied, in its text tower's part too."""
    text = config.get(TEXT)
    inside = {TEXT: {**text, TIED: tied}} if isinstance(text, Mapping) and TIED in text else {}
    return {**config, **inside, TIED: tied}
