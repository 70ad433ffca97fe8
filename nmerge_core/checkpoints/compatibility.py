"""Can these models be merged? Every reason against it, and all that is to be said of a merge of them."""

from collections.abc import Sequence

from nmerge_core.architecture.config_keys import ACTIVATIONS, ACTIVE_EXPERTS, HEADS, KV_HEADS, LAYERS
from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.checkpoints.config_difference import Difference, config_differences
from nmerge_core.checkpoints.header import FLOATS
from nmerge_core.checkpoints.heads import compare_labels, is_head, unlike_heads
from nmerge_core.checkpoints.reference import label
from nmerge_core.checkpoints.vocabulary import counts_tokens, read_vocabulary, some, vocabulary_of
from nmerge_core.errors import InputError, shown

# Same shapes with another value of these would still be another division of the weights.
_SAME_CONFIG = {"model_type", *LAYERS, *HEADS, KV_HEADS, "head_dim", *ACTIVATIONS, ACTIVE_EXPERTS, "norm_topk_prob"}


def compare_family(models: Sequence[Checkpoint]) -> tuple[list[str], list[str]]:
    """List what speaks against merging the models of a family, base first, and what is to be said of their merge."""
    base, *others = models
    errors = not_floats(base) + [reason for model in others for reason in mismatches(base, model)]
    warnings = carried(base)
    for model in models:
        warnings += [f"{label(model.reference)}: {told}" for told in (model.adapter.warnings if model.adapter else ())]
    warnings += [told for model in others for told in config_warnings(base, model)]
    try:
        unlike, told_of_labels = compare_labels(models)
    except InputError as error:
        return [*errors, str(error)], warnings
    return errors + unlike, warnings + told_of_labels


def mismatches(base: Checkpoint, model: Checkpoint) -> list[str]:
    """List what makes `model` unmergeable with `base`, a sentence each, naming key or tensor."""
    name = label(model.reference)
    found = [
        f"{name}: config.json, key '{each.key}': expected {shown(each.base)} as in the base, "
        f"found {shown(each.model)}; it is not a fine-tune of this base"
        for each in config_differences(base.config, model.config)
        if _is_decisive(each)
    ]
    differing = [tensor for tensor in base.tensors if tensor in model.tensors and not _shapes_fit(base, model, tensor)]
    if differing:
        shapes = [
            f"{tensor}: expected {list(base.tensors[tensor].shape)}, found {list(model.tensors[tensor].shape)}"
            for tensor in differing
        ]
        added, reason = "", ""
        if all(counts_tokens(tensor) for tensor in differing):
            added = " (tokens were added to its vocabulary)"
            reason = (
                f"; rows cannot be matched by their tokens: {_without_tokens(base) or _without_tokens(model, base)}"
            )
        if all(is_head(tensor) and not counts_tokens(tensor) for tensor in differing):
            found.append(unlike_heads(base, model, some(shapes)))
        else:
            found.append(f"{name}: shapes differ from the base{added}: {some(shapes)}{reason}")
    missing = [tensor for tensor in base.tensors if tensor not in model.tensors]
    extra = [tensor for tensor in model.tensors if tensor not in base.tensors]
    if (missing or extra) and all(map(is_head, (*missing, *extra))):
        lacks = [f"it lacks the base's ({some(missing)})"] if missing else []
        has = [f"it has its own ({some(extra)})"] if extra else []
        found.append(unlike_heads(base, model, ", ".join(lacks + has)))
    else:
        if missing:
            found.append(f"{name}: tensors of the base are missing: {some(missing)}")
        if extra:
            found.append(f"{name}: tensors the base does not have: {some(extra)}")
    return found + not_floats(model)


def carried(base: Checkpoint) -> list[str]:
    """Say, in no or one sentence, what of the base a merge takes over as it is, as no forward pass reads it."""
    if not base.carried:
        return []
    return [
        f"{label(base.reference)}: {len(base.carried):,} tensors are no part of the model that transformers runs "
        f"({some(sorted(base.carried))}); they are in no statistic, and a merge takes over the base's"
    ]


def not_floats(model: Checkpoint) -> list[str]:
    """Say, in no or one sentence, which weights of a model are in no format that is merged."""
    odd = [f"{tensor} is {info.dtype}" for tensor, info in model.tensors.items() if info.dtype not in FLOATS]
    expected = f"expected floating-point weights ({', '.join(FLOATS)}), not quantised ones"
    return [f"{label(model.reference)}: {expected}: {some(odd)}; dequantise it first"] if odd else []


def _is_decisive(difference: Difference) -> bool:
    """Whether models cannot be merged for it; a key that one of them leaves out is told by the shapes."""
    key = difference.key.rpartition(".")[2]
    return key in _SAME_CONFIG and difference.base is not None and difference.model is not None


def config_warnings(base: Checkpoint, model: Checkpoint) -> list[str]:
    """Say what else the configurations differ in: the weights were trained for another function than the base's."""
    return [
        f"{label(model.reference)}: config.json, {each}; the merge takes the base's"
        for each in config_differences(base.config, model.config)
        if not _is_decisive(each)
    ]


def _shapes_fit(base: Checkpoint, model: Checkpoint, tensor: str) -> bool:
    """Whether a tensor has one shape in both, but for rows that are matched by the models' tokens."""
    ours, theirs = base.tensors[tensor].shape, model.tensors[tensor].shape
    by_token = counts_tokens(tensor) and ours[1:] == theirs[1:]
    return ours == theirs or (by_token and not _without_tokens(base) and not _without_tokens(model, base))


def _without_tokens(checkpoint: Checkpoint, base: Checkpoint | None = None) -> str:
    """Say why the tokens of a model's rows, which may be its base's, are not known; empty where they are."""
    try:
        found = vocabulary_of(checkpoint, read_vocabulary(base) if base else None)
        return "" if found else f"{checkpoint.folder} has no tokenizer.json"
    except InputError as error:
        return str(error)
