"""A model's forward pass as far as its neurons go: without the head, through both stacks, or through one of CLIP's."""

from typing import Any

import torch
from torch import Tensor

from nmerge_core.errors import InputError, short
from nmerge_core.kinds import PAIR, SEQ2SEQ
from nmerge_core.loading import LanguageModel


@torch.inference_mode()
def run_body(language_model: LanguageModel, exemplars: Tensor, mask: Tensor | None) -> None:
    """Run the body of a model on tokens (B, T), or on images (B, 3, height, width): no logits are needed.

    A sequence-to-sequence model reads a text with its encoder and writes the same text with its decoder, which is told
    what it has written (teacher forcing): at token t the decoder has read the tokens before t, and all that the encoder
    made of the text. So both stacks have φ at the same (B, T) tokens.

    Args:
        language_model: the model.
        exemplars: the tokens of texts, padded on the right, or images as the model's processor prepares them.
        mask: (B, T) which tokens are no padding; None where there is none.

    Raises:
        InputError: the decoder's first token is not known, or the model takes no images of this size.
    """
    if exemplars.is_floating_point():
        _run_on_images(language_model, exemplars.to(language_model.device, language_model.model.dtype))
        return
    tokens = exemplars.to(language_model.device)
    real = None if mask is None else mask.long().to(language_model.device)
    model: Any = language_model.model
    if language_model.kind == SEQ2SEQ:
        _run_stacks(language_model, tokens, real)
    elif language_model.kind == PAIR:
        model.text_model(input_ids=tokens, attention_mask=real)
    else:
        model.base_model(input_ids=tokens, attention_mask=real, use_cache=False)


def _run_on_images(language_model: LanguageModel, pixels: Tensor) -> None:
    model: Any = language_model.model
    try:
        (model.vision_model if language_model.kind == PAIR else model.base_model)(pixel_values=pixels)
    except ValueError as error:
        raise InputError(
            f"{language_model.label}: takes no images of {pixels.shape[2]} × {pixels.shape[3]} pixels, as its "
            f"preprocessor_config.json has them ({short(str(error))}); take that of its base"
        ) from error


def _run_stacks(language_model: LanguageModel, tokens: Tensor, real: Tensor | None) -> None:
    model: Any = language_model.model
    try:
        # A model may know the end of a text by its padding, and begin to write with what it has there.
        padded = tokens if real is None else tokens.masked_fill(real == 0, model.config.pad_token_id)  # (B, T)
        before = _shifted(model, padded)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{language_model.label}: expected its config.json to say how its decoder begins (decoder_start_token_id, "
            "pad_token_id), found that missing"
        ) from error
    states = model.get_encoder()(input_ids=padded, attention_mask=real).last_hidden_state  # (B, T, d_model)
    model.get_decoder()(
        input_ids=before,
        attention_mask=real,
        encoder_hidden_states=states,
        encoder_attention_mask=real,
        use_cache=False,
    )


def _shifted(model: Any, tokens: Tensor) -> Tensor:
    """Return what the decoder is told of tokens (B, T): at t the token before t, and at 0 what it begins with."""
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):
        shifted: Tensor = model.prepare_decoder_input_ids_from_labels(tokens)
        return shifted
    if not isinstance(first := model.config.decoder_start_token_id, int):
        raise ValueError(f"decoder_start_token_id is {first}")
    return torch.nn.functional.pad(tokens[:, :-1], (1, 0), value=first)  # as M2M100 and Blenderbot shift labels
