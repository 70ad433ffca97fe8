"""The head of a model and the embeddings that it may be: their names, and whether the two are one tensor."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from nmerge_core.architecture.config_keys import TEXT

TIED = "tie_word_embeddings"
# As transformers' decoders and encoders name them.
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out|cls\.predictions\.decoder)\.weight$")
_EMBEDDINGS = re.compile(r"(?:^|\.)(?:embed_tokens|embed_in|wte|shared|word_embeddings)\.weight$")


def is_language_head(tensor: str) -> bool:
    """Tell whether a tensor is a head of tokens, by its name."""
    return bool(_HEAD.search(tensor))


def head_of(tensors: Iterable[str]) -> str | None:
    """Return the name of the head, where it is a parameter of its own."""
    return next(filter(is_language_head, tensors), None)


def embeddings_of(tensors: Iterable[str]) -> str | None:
    """Return the name of the embeddings of the tokens: T5's two stacks share one."""
    found = list(filter(_EMBEDDINGS.search, tensors))
    return next((name for name in found if name == "shared.weight"), found[0] if found else None)


def said_tied(config: Mapping[str, Any]) -> bool | None:
    """Return what a configuration, else its text tower's part, says of tying head and embeddings; None if neither."""
    text = config.get(TEXT)
    said = (each.get(TIED) for each in (config, text if isinstance(text, Mapping) else {}))
    return next((each for each in said if isinstance(each, bool)), None)


def ties_stored_head(config: Mapping[str, Any]) -> bool:
    """Tell whether the configuration ties a stored head to the embeddings, by its family's default if it is silent."""
    said = said_tied(config)
    return _default_tied(str(config.get("model_type"))) if said is None else said


def is_tied(config: Mapping[str, Any], tensors: Iterable[str]) -> bool:
    """Tell whether a model has its embeddings for a head: it has none of its own, and does not say that it has none."""
    names = list(tensors)
    return head_of(names) is None and embeddings_of(names) is not None and said_tied(config) is not False


@lru_cache(maxsize=64)
def _default_tied(model_type: str) -> bool:
    """Ask transformers, which takes a second to import: for the rare folder that does not say and has a head."""
    from transformers import AutoConfig

    try:
        return bool(getattr(AutoConfig.for_model(model_type), TIED, False))
    except (ValueError, KeyError):
        return False
