"""What a class of models is for, as the Hub calls it, and what reads its input."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CAUSAL_CLASS = "AutoModelForCausalLM"  # which also loads a model whose config names no class


@dataclass(frozen=True)
class Use:
    """What the Hub calls the work of a class of models, and what reads its input."""

    tag: str
    reader: str
    called: str

    @property
    def sees(self) -> bool:
        """Whether it is shown images, and so has no conversation."""
        return "image" in self.tag


_TOKENS = ("AutoTokenizer", "tokenizer")
CAUSAL = Use("text-generation", *_TOKENS)
_IMAGES = ("AutoImageProcessor", "processor")
_USES = (
    (r".*(ForCausalLM|LMHeadModel)", CAUSAL),
    (r".*(T5|Bart|Pegasus|M2M100|LED)\w*ForConditionalGeneration", Use("text2text-generation", *_TOKENS)),
    (r"CLIPModel", Use("zero-shot-image-classification", "AutoProcessor", "processor")),
    (r"CLIPVisionModel(WithProjection)?|(ViT|DeiT)Model", Use("image-feature-extraction", *_IMAGES)),
    (r".*ForImageClassification", Use("image-classification", *_IMAGES)),
)


def classes_in(config: Mapping[str, Any]) -> list[str]:
    """Return the classes that a config.json names; none where it names none as it should."""
    named = config.get("architectures")
    return [str(each) for each in named] if isinstance(named, list) else []


def use_of(architectures: Sequence[str]) -> Use | None:
    """Return the use of the first of the classes that a config.json names; None where it is not known."""
    name = architectures[0] if architectures else CAUSAL_CLASS
    return next((use for pattern, use in _USES if re.fullmatch(pattern, name)), None)


def tells_next(config: Mapping[str, Any]) -> bool:
    """Tell whether a config.json is of a causal language model, or of a use that is not known and may be that."""
    return use_of(classes_in(config)) in (None, CAUSAL)


def loader_of(architectures: Sequence[str]) -> str:
    """Return transformers' class that loads a model whose config.json names these."""
    return CAUSAL_CLASS if use_of(architectures) is CAUSAL else architectures[0]
