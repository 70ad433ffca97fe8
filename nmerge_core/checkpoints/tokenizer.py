"""A model's tokenizer as transformers loads it, or a sentence that says why there is none."""

from typing import TYPE_CHECKING

from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(checkpoint: Checkpoint) -> "PreTrainedTokenizerBase":
    """Load the tokenizer beside a model's weights; code that comes with it is never run.

    Raises:
        InputError: transformers cannot load it, or there is none.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False)
    except Exception as error:  # its files can hold anything, so anything can go wrong
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{checkpoint.reference}: transformers cannot load its tokenizer ({reason})") from error
    if not tokenizer("a")["input_ids"]:  # without its files transformers makes an empty one
        raise InputError(
            f"{checkpoint.reference}: no tokenizer; expected tokenizer.json beside the weights, copy the base model's"
        )
    return tokenizer
