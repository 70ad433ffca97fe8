"""What the models of a family are, and whether they can be merged, told from headers and small files alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nmerge_core.architecture.config_keys import HEADS, KV_HEADS, TEXT
from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.checkpoints.compatibility import compare_family
from nmerge_core.checkpoints.conversation import told_differences
from nmerge_core.checkpoints.matching import as_family
from nmerge_core.checkpoints.opening import open_checkpoint
from nmerge_core.checkpoints.reference import label
from nmerge_core.checkpoints.tying import is_tied
from nmerge_core.checkpoints.vocabulary import compare, known_vocabulary, read_vocabulary, vocabulary_of
from nmerge_core.errors import InputError


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
    facts, errors = [], []
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
    reasons, warnings = compare_family(opened)
    errors += reasons
    warnings += [told for checkpoint in opened[1:] for told in _warnings(opened[0], checkpoint)]
    try:
        warnings += conversation_warnings(opened)
    except InputError as error:
        errors.append(str(error))
    needs_tokenizer = any(_conflicting(opened[0], checkpoint) for checkpoint in opened[1:])
    warnings = list(dict.fromkeys(warnings))  # the base's own once
    return FamilyReport(tuple(facts), tuple(errors), tuple(warnings), needs_tokenizer)


def model_facts(checkpoint: Checkpoint) -> ModelFacts:
    """Collect the facts of one model."""
    architecture = checkpoint.architecture
    config: Mapping[str, Any] = checkpoint.config.get(TEXT) or checkpoint.config
    heads = next((int(config[key]) for key in HEADS if config.get(key)), 0)
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
        kv_heads=int(config.get(KV_HEADS) or heads),
        vocabulary=architecture.vocabulary,
        parameters=checkpoint.parameters,
        neuronal=neuronal,
        point=checkpoint.parameters - neuronal,
        bytes=checkpoint.bytes,
        dtype="+".join(dtype for dtype, _ in dtypes.most_common()),
        shards=len(checkpoint.files),
        tied=is_tied(checkpoint.config, checkpoint.tensors),
    )


def conversation_warnings(models: Sequence[Checkpoint]) -> list[str]:
    """Say how one talks to models otherwise than to their base, and what decides how one talks to their merge."""
    return [
        f"{names}: {told}; a merge has what most of its models have, or whose the recipe's 'chat_template' names"
        for names, told in told_differences(models)
    ]


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
    try:
        ours = read_vocabulary(base)
        theirs, known = read_vocabulary(model), vocabulary_of(model, ours)
    except InputError as error:
        return [*found, str(error)]
    if (ours is None or theirs is None) and base.architecture.vocabulary:  # else it reads no text
        found.append(f"{name if theirs is None else label(base.reference)}: no tokenizer.json to compare tokens by")
    if ours and known and (difference := compare(ours, known)):
        found.append(difference.describe(name))
    return found
