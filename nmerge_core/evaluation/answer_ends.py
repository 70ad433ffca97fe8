"""The tokens that end a model's answer: those that its checkpoint names, and that its chat template ends turns by."""

from typing import Any

from nmerge_core.loading import LanguageModel

_SAID = "\N{SNOWMAN}"  # stands for an answer, where a template is looked at for what comes after it


def answer_ends(language_model: LanguageModel, *, chat: bool) -> list[int]:
    """Return the ids of the tokens that end an answer; in a `chat` also that which ends a turn of the template."""
    tokenizer: Any = language_model.tokenizer
    settings: Any = language_model.model.generation_config
    said = settings.eos_token_id
    ends = [] if said is None else [said] if isinstance(said, int) else list(said)
    ends += [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    if chat:
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _SAID}]
        _, found, after = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(_SAID)
        special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        ids = tokenizer(after if found else "", add_special_tokens=False)["input_ids"]
        ends += [id for id in ids if id in special][:1]
    return list(dict.fromkeys(ends))
