"""What kind of model a checkpoint is, decided here alone: what it reads, and transformers' class that loads it."""

from dataclasses import dataclass
from typing import Any

import transformers
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from nmerge_core.checkpoints import Checkpoint
from nmerge_core.errors import InputError


@dataclass(frozen=True)
class Kind:
    """What messages call a model of this kind, the class of transformers that `loads` it, and what it reads.

    Its class is loaded with these `options`.
    """

    title: str
    loads: str
    reads_text: bool = True
    sees_images: bool = False  # and says what is on them
    options: tuple[tuple[str, bool], ...] = ()

    @property
    def auto(self) -> Any:
        """The class that loads it."""
        return getattr(transformers, self.loads)


CAUSAL = Kind("a causal language model", "AutoModelForCausalLM")
SEEING = Kind(CAUSAL.title, "AutoModelForImageTextToText")  # writes about images; here it is run on texts alone
SEQ2SEQ = Kind("a sequence-to-sequence model", "AutoModelForSeq2SeqLM")
PAIR = Kind("a model of images and texts", "AutoModel", sees_images=True)
TOWER = Kind("a vision tower", "AutoModel", reads_text=False, sees_images=True)
PROJECTED = Kind(
    "a vision tower with a projection", "CLIPVisionModelWithProjection", reads_text=False, sees_images=True
)
CLASSIFIER = Kind("an image classifier", "AutoModelForImageClassification", reads_text=False, sees_images=True)
# A classifier without its head; the pooling that its class would add was never trained.
_NO_POOLING = (("add_pooling_layer", False),)
BODY = Kind("the body of an image classifier", "AutoModel", False, True, _NO_POOLING)
CAUSAL_KINDS = (CAUSAL, SEEING)
SCORED = (*CAUSAL_KINDS, SEQ2SEQ, PAIR, TOWER, PROJECTED, CLASSIFIER, BODY)  # on tasks, and classified

_EXPECTED = "expected a causal language model"
_PAIRS = ("clip",)
_TOWERS = ("clip_vision_model",)
_BODIES = ("ViTModel", "DeiTModel")


def kind_of(checkpoint: Checkpoint) -> Kind:
    """Return the kind of a checkpoint's model.

    Raises:
        InputError: it is none of these.
    """
    config, model_type = checkpoint.config, checkpoint.architecture.model_type
    named = config.get("architectures")
    own = str(named[0]) if isinstance(named, list) and named else ""
    if own.endswith("ForImageClassification") and model_type in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        return CLASSIFIER
    if own in _BODIES:
        return BODY
    if model_type in _PAIRS:
        return PAIR
    if model_type in _TOWERS:
        return PROJECTED if "visual_projection.weight" in checkpoint.tensors else TOWER
    if model_type in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES and config.get("is_encoder_decoder"):
        return SEQ2SEQ
    # Families of encoders load as causal models too, whose every token sees those after it: no score of it means any.
    reads_ahead = model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    reads_ahead = reads_ahead and not (config.get("is_decoder") or config.get("causal"))
    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not reads_ahead:
        return CAUSAL
    if model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return SEEING
    found = (
        f"a masked language model ('{model_type}' without 'is_decoder')"
        if reads_ahead
        else f"model type '{model_type}'"
    )
    raise InputError(
        f"{checkpoint.reference}: {_EXPECTED}, found {found}; it can be inspected, merged and compared by cosine, but "
        "not classified, knocked out, scored or measured"
    )


def check_causal(reference: str, kind: Kind) -> None:
    """Raise an InputError where a model is no causal language model, which alone tell what comes after each token."""
    if kind not in CAUSAL_KINDS:
        raise InputError(
            f"{reference}: {_EXPECTED}, found {kind.title}; it can be inspected, merged, compared by cosine, "
            "classified, scored on tasks and knocked out by them, but not asked by a prompt or measured on texts"
        )
