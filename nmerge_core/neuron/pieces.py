"""The tokens of a corpus as text, by a model's tokenizer alone."""

from collections.abc import Sequence

from nmerge_core.activations.collect import pieces_of
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.checkpoints.tokenizer import load_tokenizer


def pieces_of_texts(model: str, texts: Sequence[str], max_length: int = 512) -> list[list[str]]:
    """Cut each text where the model's tokens end, after `max_length` tokens at most; no weights are read.

    Raises:
        InputError: the model cannot be opened, or has no tokenizer.
    """
    tokenizer = load_tokenizer(open_checkpoint(model))
    read = tokenizer(list(texts), truncation=True, max_length=max_length, return_offsets_mapping=True)
    each = zip(texts, read["input_ids"], read["offset_mapping"], strict=True)
    return [pieces_of(tokenizer, text, list(ids), offsets) for text, ids, offsets in each]
