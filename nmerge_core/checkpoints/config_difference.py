"""What differs between two models' configurations, as transformers reads them: each difference once."""

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from nmerge_core.errors import short

# Told elsewhere (tokens, labels, tying, number format), of no effect on what the weights compute, or of training only.
_TOLD_ELSEWHERE: tuple[str, ...] = (
    "vocab_size",
    "id2label",
    "label2id",
    "num_labels",
    "tie_word_embeddings",
    "dtype",
    "torch_dtype",
)
_TOLD_ELSEWHERE += ("quantization_config", "compression_config", "auto_map", "transformers_weights")
_OF_THE_PROGRAM: tuple[str, ...] = (
    "architectures",
    "name_or_path",
    "transformers_version",
    "use_cache",
    "return_dict",
    "torchscript",
)
_OF_THE_PROGRAM += ("chunk_size_feed_forward", "pretraining_tp", "attn_implementation", "tokenizer_class")
_OF_TRAINING = ("problem_type", "finetuning_task", "gradient_checkpointing", "task_specific_params", "rescale_every")
_IGNORED = re.compile(
    rf"(?:{'|'.join((*_TOLD_ELSEWHERE, *_OF_THE_PROGRAM, *_OF_TRAINING))}"
    r"|_.*|output_.*|unsloth_.*|initializer_.*|init_std|.*_token_ids?|.*dropout(?:_prob|_rate|_p)?|.*_pdrop|router_jitter_noise"
    r"|.*_loss_coef)"
)
_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Difference:
    """A key (those of a tower as tower.key) and its values in the base and in the model; None where it has none."""

    key: str
    base: Any
    model: Any

    def __str__(self) -> str:
        """Say both values, and of lists as long as each other where they differ."""
        ours, theirs = self.base, self.model
        if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs) > 1:
            places = [place for place, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]]
            first = places[0]
            return (
                f"key '{short(self.key)}': {len(places)} of {len(ours)} entries differ from the base's, first "
                f"[{first}], {_short(theirs[first])} where the base has {_short(ours[first])}"
            )
        return f"key '{short(self.key)}': {_short(theirs)} where the base has {_short(ours)}"


def config_differences(base: Mapping[str, Any], model: Mapping[str, Any]) -> list[Difference]:
    """Compare two configurations whole, by what transformers makes of each: its defaults, its names of today.

    Where they are written alike, or transformers does not know the type, they are compared as they are written.
    """
    ours, theirs = _flat(base), _flat(model)
    if ours == theirs:
        return []
    known = [_as_transformers_reads(config) for config in (base, model)]
    if known[0] is not None and known[1] is not None:
        ours, theirs = known[0], known[1]
    keys = dict.fromkeys((*ours, *theirs))
    pairs = [Difference(key, _value(ours, key), _value(theirs, key)) for key in keys]
    return [each for each in pairs if each.base != each.model and not _both_unset(each, ours, theirs)]


def _value(config: Mapping[str, Any], key: str) -> Any:
    """Return what a key says; of the width of a head that is not said what every class takes then: an equal share."""
    said, (tower, dot, name) = config.get(key), key.rpartition(".")
    width, heads = (config.get(f"{tower}{dot}{of}") for of in ("hidden_size", "num_attention_heads"))
    if said is None and name == "head_dim" and isinstance(width, int) and isinstance(heads, int) and heads:
        return width // heads
    return said


def _both_unset(each: Difference, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether a key that only one of them has says there what leaving it out says: nothing."""
    return (each.key not in ours or each.key not in theirs) and not each.base and not each.model


def _as_transformers_reads(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a configuration with every default of transformers' own class for its type, flat; None if there is none.

    No code of a checkpoint is run. Imports transformers, which takes seconds: only where configurations differ.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, GenerationConfig

    if not isinstance(config.get("model_type"), str) or config["model_type"] not in CONFIG_MAPPING:
        return None
    content = {key: value for key, value in json.loads(json.dumps(config)).items() if key not in _TOLD_ELSEWHERE}
    try:
        with quiet():
            found = _flat(CONFIG_MAPPING[config["model_type"]].from_dict(content).to_dict())
    except (ValueError, TypeError, LookupError, AttributeError, StrictDataclassError):  # not what the class expects
        return None
    # How to generate stood here in older versions; it is compared with the rest of that.
    return {key: value for key, value in found.items() if key not in GenerationConfig().to_dict()}


def _flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return what matters of a configuration by dotted keys."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{above}{key}"
        if _IGNORED.fullmatch(str(key)) or name.endswith(("rope_parameters.type", "rope_scaling.type")):
            continue
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{name}.")
        else:
            found[name] = value
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from logging what it thinks of a configuration: the message here says what is to be said."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _short(value: Any) -> str:
    if value is None:
        return "none"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
