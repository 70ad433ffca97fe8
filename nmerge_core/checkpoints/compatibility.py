"""Can these models be merged? Answered from headers and small files alone, with every reason against it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.checkpoints.config_difference import Difference, config_differences
from nmerge_core.checkpoints.conversation import told_differences
from nmerge_core.checkpoints.header import FLOATS
from nmerge_core.checkpoints.heads import compare_labels, is_head, unlike_heads
from nmerge_core.checkpoints.matching import as_family
from nmerge_core.checkpoints.opening import open_checkpoint
from nmerge_core.checkpoints.reference import label
from nmerge_core.checkpoints.vocabulary import (
    compare,
    counts_tokens,
    known_vocabulary,
    read_vocabulary,
    some,
    vocabulary_of,
)
from nmerge_core.errors import InputError

# Same shapes with another value of these would still be another division of the weights; families differ in names.
_HEADS = ("num_attention_heads", "num_heads", "n_head")
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "feed_forward_proj")
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer")
_EXPERTS = ("num_experts_per_tok", "norm_topk_prob")
_SAME_CONFIG = {"model_type", *_LAYERS, *_HEADS, "num_key_value_heads", "head_dim", *_ACTIVATIONS, *_EXPERTS}
_TEXT = "text_config"  # of a model with several towers


@dataclass(frozen=True)
class ModelFacts:
    """What the headers say of one model; `neuronal` and `point` count parameters of weight neurons and of the rest.

    Of a model of several towers d_model and heads are the first's, layers are all. `d_ffn` is the number of neurons of
    the widest layer, `least_d_ffn` that of the narrowest, None where the neurons of the family are not known.
    """

    reference: str
    label: str
    model_type: str
    layers: int
    d_model: int
    d_ffn: int | None
    least_d_ffn: int | None
    heads: int
    kv_heads: int
    vocabulary: int
    parameters: int
    neuronal: int
    point: int
    bytes: int
    dtype: str
    shards: int
    tied: bool

    @property
    def neurons(self) -> str:
        """How many neurons a layer has, in words: '96', '96–512' where layers differ, or 'not known'."""
        if self.d_ffn is None:
            return "not known"
        return f"{self.d_ffn:,}" if self.least_d_ffn == self.d_ffn else f"{self.least_d_ffn:,}–{self.d_ffn:,}"


@dataclass(frozen=True)
class FamilyReport:
    """The facts of each model, base first, and what speaks against merging them."""

    models: tuple[ModelFacts, ...]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    needs_tokenizer: bool = False  # whether a recipe has to say whose vocabulary the merge has

    @property
    def mergeable(self) -> bool:
        """Whether nothing speaks against merging, by a recipe that names a tokenizer where one is needed."""
        return not self.errors


def inspect_family(base: str, models: Sequence[str]) -> FamilyReport:
    """Compare fine-tunes with their base: architecture, tensors, shapes, dtypes, vocabulary and tokenizer.

    Returns the report also where models cannot be opened: the reasons are among its errors.
    """
    facts, errors, warnings = [], [], []
    opened: list[Checkpoint] = []
    for reference in (base, *models):
        try:
            checkpoint = open_checkpoint(reference)
            facts.append(model_facts(checkpoint))
            opened.append(checkpoint)
        except InputError as error:
            errors.append(str(error))
            if reference == base:
                return FamilyReport((), tuple(errors), ())
    opened = as_family(opened[0], opened[1:])
    warnings += carried(opened[0])
    for checkpoint in opened:
        if checkpoint.adapter:
            warnings += [f"{label(checkpoint.reference)}: {warning}" for warning in checkpoint.adapter.warnings]
    try:
        for checkpoint in opened[1:]:
            errors += mismatches(opened[0], checkpoint)
            warnings += _warnings(opened[0], checkpoint)
        unlike, told = compare_labels(opened)
        errors, warnings = errors + unlike, warnings + told + conversation_warnings(opened)
    except InputError as error:
        errors.append(str(error))
    needs_tokenizer = any(_conflicting(opened[0], checkpoint) for checkpoint in opened[1:])
    warnings = list(dict.fromkeys(warnings))  # the base's own once
    return FamilyReport(tuple(facts), tuple(errors), tuple(warnings), needs_tokenizer)


def model_facts(checkpoint: Checkpoint) -> ModelFacts:
    """Collect the facts of one model."""
    architecture = checkpoint.architecture
    config: Mapping[str, Any] = checkpoint.config.get(_TEXT) or checkpoint.config
    heads = next((int(config[key]) for key in _HEADS if key in config), 0)
    dtypes = Counter[str]()
    for tensor in checkpoint.tensors.values():
        dtypes[tensor.dtype] += tensor.elements
    widths = () if architecture.unknown else [mlp.d_ffn for mlp in architecture.layers]
    neuronal = sum(t.elements for name, t in checkpoint.tensors.items() if architecture.matrix(name).neuronal)
    return ModelFacts(
        reference=checkpoint.reference,
        label=label(checkpoint.reference),
        model_type=architecture.model_type,
        layers=architecture.depth,
        d_model=architecture.d_model,
        d_ffn=max(widths, default=None),
        least_d_ffn=min(widths, default=None),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        vocabulary=architecture.vocabulary,
        parameters=checkpoint.parameters,
        neuronal=neuronal,
        point=checkpoint.parameters - neuronal,
        bytes=checkpoint.bytes,
        dtype="+".join(dtype for dtype, _ in dtypes.most_common()),
        shards=len(checkpoint.files),
        tied=architecture.tied,
    )


def mismatches(base: Checkpoint, model: Checkpoint) -> list[str]:
    """List what makes `model` unmergeable with `base`, a sentence each, naming key or tensor."""
    name = label(model.reference)
    found = [
        f"{name}: config.json, key '{each.key}': expected {each.base!r} as in the base, "
        f"found {each.model!r}; it is not a fine-tune of this base"
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


def conversation_warnings(models: Sequence[Checkpoint]) -> list[str]:
    """Say how one talks to models otherwise than to their base, and what decides how one talks to their merge."""
    return [
        f"{names}: {told}; a merge has what most of its models have, or whose the recipe's 'chat_template' names"
        for names, told in told_differences(models)
    ]


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


def _conflicting(base: Checkpoint, model: Checkpoint) -> bool:
    ours = known_vocabulary(base)
    theirs = known_vocabulary(model, ours)
    difference = compare(ours, theirs) if ours and theirs else None
    return difference is not None and difference.conflicting


def _warnings(base: Checkpoint, model: Checkpoint) -> list[str]:
    name = label(model.reference)
    found = []
    dtypes = [{tensor.dtype for tensor in checkpoint.tensors.values()} for checkpoint in (base, model)]
    if dtypes[0] != dtypes[1]:
        found.append(f"{name}: dtype {'+'.join(sorted(dtypes[1]))} where the base has {'+'.join(sorted(dtypes[0]))}")
    found += config_warnings(base, model)
    try:
        ours = read_vocabulary(base)
        theirs, known = read_vocabulary(model), vocabulary_of(model, ours)
    except InputError as error:
        return [*found, str(error)]
    if ours is None or theirs is None:
        found.append(f"{name if theirs is None else label(base.reference)}: no tokenizer.json to compare tokens by")
    if ours and known and (difference := compare(ours, known)):
        found.append(difference.describe(name))
    return found
