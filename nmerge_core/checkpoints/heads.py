"""The heads of models: what stands on a body for one task, and the labels that a classifier's rows are for."""

import re
from collections.abc import Mapping, Sequence

from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.checkpoints.reference import label
from nmerge_core.checkpoints.vocabulary import counts_tokens, some
from nmerge_core.errors import InputError, shown

_HEAD = re.compile(
    r"(?:^|\.)(?:cls|score|pooler|qa_outputs|vocab_\w+|\w*head|\w*classifier|\w*predictions?)(?:\.(?!\d+\.)\w+)+$"
)
_NAMELESS = re.compile(r"LABEL_\d+")  # what transformers calls labels that nobody named


def is_head(tensor: str) -> bool:
    """Whether a tensor is of a model's head, by its name; a mixture's or an attention's heads stand in its layers."""
    return bool(_HEAD.search(tensor)) and not re.search(r"\.\d+\.", tensor)


def unlike_heads(base: Checkpoint, model: Checkpoint, differences: str) -> str:
    """Say that a model has another head than its base, with the differences between its tensors and theirs."""
    ours, theirs = (next(iter(each.config.get("architectures") or ()), "") for each in (base, model))
    of = f", as {theirs} where the base is {ours}" if ours and theirs and ours != theirs else ""
    named = [(label(each.reference), class_labels(each)) for each in (base, model)]
    labels = "; ".join(f"labels of {name}: {_listed(own)}" for name, own in named if own)
    return (
        f"{label(model.reference)}: its head is not the base's: {differences}{of}"
        + (f"; {labels}" if labels else "")
        + "; expected models with the same head: save them all with it, or all without"
    )


def class_labels(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return the labels that a classifier's configuration names, in the order of its head's rows; () if it names none.

    Raises:
        InputError: its `id2label` is no list of labels by number.
    """
    named, by_name = checkpoint.config.get("id2label"), checkpoint.config.get("label2id")
    if not named and isinstance(by_name, Mapping):
        named = {id: text for text, id in by_name.items()}
    if not named:
        return ()
    try:
        pairs = named.items() if isinstance(named, Mapping) else enumerate(named)
        labels = {int(id): str(text) for id, text in pairs}
        ordered = tuple(labels[id] for id in range(len(labels)))
    except (TypeError, ValueError, LookupError, OverflowError):
        raise InputError(
            f"{checkpoint.folder / 'config.json'}, key 'id2label': expected a label for each number from 0, found "
            f"{shown(named)}"
        ) from None
    return () if all(map(_NAMELESS.fullmatch, ordered)) else ordered


def classifier(checkpoint: Checkpoint, labels: Sequence[str]) -> str:
    """Return the name of the tensor with a row for each label; empty where the model has none."""
    return next(
        (
            name
            for name, tensor in checkpoint.tensors.items()
            if len(tensor.shape) == 2 and tensor.rows == len(labels) and is_head(name) and not counts_tokens(name)
        ),
        "",
    )


def compare_labels(models: Sequence[Checkpoint]) -> tuple[list[str], list[str]]:
    """Compare the labels of classifiers' rows with those of the first model that names its own.

    Returns:
        What speaks against merging them (the same labels in another order), and what is to be said (other labels).

    Raises:
        InputError: as `class_labels`.
    """
    known = [(model, labels) for model in models if (labels := class_labels(model)) and classifier(model, labels)]
    errors, warnings = [], []
    for model, theirs in known[1:]:
        first, ours = known[0]
        told = f"{_listed(theirs)} where {label(first.reference)} has {_listed(ours)}"
        name, head = label(model.reference), classifier(model, theirs)
        folded = [[text.casefold() for text in labels] for labels in (ours, theirs)]
        if folded[0] == folded[1] or len(ours) != len(theirs):
            continue  # the same; or shapes differ, which is told as that
        if sorted(folded[0]) == sorted(folded[1]):
            errors.append(
                f"{name}: config.json, key 'id2label': the rows of its head {head} stand for the same labels in "
                f"another order: {told}; rows of unlike labels would be merged. Put the head's rows, id2label and "
                "label2id in one order first"
            )
        else:
            warnings.append(
                f"{name}: config.json, key 'id2label': the rows of its head {head} stand for other labels: {told}; "
                "they are merged by their number, and the merge has the first model's labels"
            )
    return errors, warnings


def _listed(labels: Sequence[str]) -> str:
    return some([f"{id} {shown(text)}" for id, text in enumerate(labels)])
