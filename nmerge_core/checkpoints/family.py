"""Can these models be merged? Answered from headers and small files alone, with every reason against it."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from nmerge_core.checkpoints.checkpoint import Checkpoint, open_checkpoint
from nmerge_core.checkpoints.header import FLOATS
from nmerge_core.checkpoints.reference import label
from nmerge_core.errors import InputError

# Same shapes with another value of these would still be another function of the weights; families differ in names.
_HEADS = ("num_attention_heads", "num_heads", "n_head")
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "feed_forward_proj")
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer")
_EXPERTS = ("num_experts_per_tok", "norm_topk_prob")
_SAME_CONFIG = ("model_type", *_LAYERS, *_HEADS, "num_key_value_heads", *_ACTIVATIONS, *_EXPERTS)
_NESTED = ("text_config", "vision_config")  # of a model with several towers
_LISTED = 3  # tensors named in a message before "and N more"


@dataclass(frozen=True)
class ModelFacts:
    """What the headers say of one model; `neuronal` and `point` count parameters of weight neurons and of the rest.

    Of a model of several towers d_model, d_ffn and heads are the first's, layers are all.
    """

    reference: str
    label: str
    model_type: str
    layers: int
    d_model: int
    d_ffn: int
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


@dataclass(frozen=True)
class FamilyReport:
    """The facts of each model, base first, and what speaks against merging them."""

    models: tuple[ModelFacts, ...]
    errors: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def mergeable(self) -> bool:
        """Whether nothing speaks against merging."""
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
            opened.append(checkpoint.named_like(opened[0]) if opened else checkpoint)
        except InputError as error:
            errors.append(str(error))
            if reference == base:
                return FamilyReport((), tuple(errors), ())
    for checkpoint in opened:
        if checkpoint.adapter:
            warnings += [f"{label(checkpoint.reference)}: {warning}" for warning in checkpoint.adapter.warnings]
    for checkpoint in opened[1:]:
        errors += mismatches(opened[0], checkpoint)
        warnings += _warnings(opened[0], checkpoint)
    return FamilyReport(tuple(facts), tuple(errors), tuple(dict.fromkeys(warnings)))  # the base's own once


def model_facts(checkpoint: Checkpoint) -> ModelFacts:
    """Collect the facts of one model; raises InputError where its family is not known."""
    architecture = checkpoint.architecture
    config: Mapping[str, Any] = checkpoint.config.get(_NESTED[0]) or checkpoint.config
    heads = next((int(config[key]) for key in _HEADS if key in config), 0)
    dtypes = Counter[str]()
    for tensor in checkpoint.tensors.values():
        dtypes[tensor.dtype] += tensor.elements
    neuronal = sum(t.elements for name, t in checkpoint.tensors.items() if architecture.matrix(name).neuronal)
    return ModelFacts(
        reference=checkpoint.reference,
        label=label(checkpoint.reference),
        model_type=architecture.model_type,
        layers=len(architecture.layers),
        d_model=architecture.d_model,
        d_ffn=architecture.layers[0].d_ffn,
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
    ours, theirs = _settings(base.config), _settings(model.config)
    found = [
        f"{name}: config.json, key '{key}': expected {ours[key]!r} as in the base, "
        f"found {theirs[key]!r}; it is not a fine-tune of this base"
        for key in ours
        if key in theirs and ours[key] != theirs[key]  # not every version of transformers writes every key
    ]
    shapes = [
        f"{tensor}: expected {list(info.shape)}, found {list(model.tensors[tensor].shape)}"
        for tensor, info in base.tensors.items()
        if tensor in model.tensors and model.tensors[tensor].shape != info.shape
    ]
    if shapes:
        vocabulary = ("embed", "lm_head", "wte", "shared.weight")
        grown = all(any(part in shape for part in vocabulary) for shape in shapes)
        added = " (tokens were added to its vocabulary)" if grown else ""
        found.append(f"{name}: shapes differ from the base{added}: {_some(shapes)}")
    if missing := [tensor for tensor in base.tensors if tensor not in model.tensors]:
        found.append(f"{name}: tensors of the base are missing: {_some(missing)}")
    if extra := [tensor for tensor in model.tensors if tensor not in base.tensors]:
        found.append(f"{name}: tensors the base does not have: {_some(extra)}")
    odd = [f"{tensor} is {info.dtype}" for tensor, info in model.tensors.items() if info.dtype not in FLOATS]
    if odd:
        found.append(
            f"{name}: expected floating-point weights ({', '.join(FLOATS)}): {_some(odd)}; dequantise it first"
        )
    return found


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the function of the weights: the keys of `_SAME_CONFIG`, those of the towers as tower.key."""
    settings = {key: config[key] for key in _SAME_CONFIG if key in config}
    for tower in (key for key in _NESTED if config.get(key)):
        settings |= {f"{tower}.{key}": value for key, value in _settings(config[tower]).items()}
    return settings


def _warnings(base: Checkpoint, model: Checkpoint) -> list[str]:
    name = label(model.reference)
    found = []
    dtypes = [{tensor.dtype for tensor in checkpoint.tensors.values()} for checkpoint in (base, model)]
    if dtypes[0] != dtypes[1]:
        found.append(f"{name}: dtype {'+'.join(sorted(dtypes[1]))} where the base has {'+'.join(sorted(dtypes[0]))}")
    for key in ("rope_parameters", "rope_theta", "rope_scaling", "rms_norm_eps"):
        if base.config.get(key) != model.config.get(key):
            found.append(f"{name}: config.json, key '{key}' differs from the base; the merge takes the base's")
    try:
        ours, theirs = (_vocabulary(checkpoint.folder) for checkpoint in (base, model))
    except InputError as error:
        return [*found, str(error)]
    if ours is None or theirs is None:
        found.append(f"{name if theirs is None else label(base.reference)}: no tokenizer.json to compare tokens by")
    elif ours != theirs:
        moved = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
        found.append(f"{name}: its tokenizer differs from the base's in {len(moved):,} tokens: {_some(moved)}")
    return found


def _vocabulary(folder: Path) -> Mapping[str, int] | None:
    file = folder / "tokenizer.json"
    return _tokens(file, file.stat().st_mtime_ns) if file.exists() else None


@lru_cache(maxsize=16)
def _tokens(file: Path, modified: int) -> Mapping[str, int]:
    """Read the tokens of a tokenizer; `modified` is there to make the cache forget a rewritten file."""
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        vocabulary = content["model"].get("vocab", {})
        tokens = dict(vocabulary) if isinstance(vocabulary, dict) else {pair[0]: i for i, pair in enumerate(vocabulary)}
        return tokens | {token["content"]: token["id"] for token in content.get("added_tokens", ())}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file}: expected a tokenizer in JSON, found something else ({type(error).__name__}: {error}); "
            "tokens cannot be compared"
        ) from error


def _some(items: Sequence[str]) -> str:
    shown = "; ".join(items[:_LISTED])
    return f"{shown}; and {len(items) - _LISTED:,} more" if len(items) > _LISTED else shown
