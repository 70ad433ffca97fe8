"""How a model answers a prompt: token by token, so that what is there can be shown, and what may come next."""

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from nmerge_core.errors import InputError
from nmerge_core.loading import LanguageModel


@dataclass(frozen=True)
class Manner:
    """How it answers: greedily at temperature 0, else drawn by `seed`; in a `chat`, or as a text that goes on."""

    temperature: float = 0.0
    seed: int = 0
    chat: bool = False


@dataclass(frozen=True)
class Answer:
    """The tokens of an answer so far, their text, and whether the model has ended it."""

    tokens: tuple[int, ...]
    text: str
    ended: bool


def prompt_tokens(asked: LanguageModel, prompt: str, *, chat: bool = False) -> list[int]:
    """Return the tokens that a model sees of a prompt: as its tokenizer has it, or as a turn of its chat template.

    Raises:
        InputError: it is no causal language model, the prompt has no tokens, or the model has no chat template.
    """
    asked.check_causal()
    tokenizer: Any = asked.tokenizer
    if chat and not tokenizer.chat_template:
        raise InputError(f"{asked.label}: has no chat template; ask it without one")
    if chat:
        turn = [{"role": "user", "content": prompt}]
        tokens = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=True, return_dict=True)
    else:
        tokens = tokenizer(prompt)
    found: list[int] = list(tokens["input_ids"])
    if not found:
        raise InputError("the prompt is empty: write some text for the model to continue")
    return found


class _Drawn(LogitsProcessor):
    """Add to every token's logit, divided by the temperature, what makes the likeliest one a draw (Gumbel's noise).

    The noise follows from the seed and the place in the answer alone, in however many parts that is said.
    """

    def __init__(self, manner: Manner, prompt: int) -> None:
        self.manner, self.prompt = manner, prompt  # the prompt's tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        place = input_ids.shape[1] - self.prompt
        generator = torch.Generator().manual_seed((self.manner.seed * 1_000_003 + place) % 2**63)
        uniform = torch.rand(scores.shape[-1], generator=generator, dtype=torch.float64)  # (vocabulary,)
        return scores / self.manner.temperature - (-uniform.log()).log().to(scores)


# Of each model, what it keeps of the tokens that it stopped after: read anew, they may round to another answer.
_STOPPED: MutableMapping[torch.nn.Module, dict[tuple[int, ...], Any]] = WeakKeyDictionary()
_TALKS = 4  # at most, of a model


def forget(model: torch.nn.Module) -> None:
    """Forget where a model stopped, as its weights change."""
    _STOPPED.pop(model, None)


def go_on(asked: LanguageModel, prompt: Sequence[int], said: Sequence[int], more: int, manner: Manner) -> Answer:
    """Let a model say at most `more` tokens after a prompt's and those it has `said`; said in parts or not, the same.

    At a temperature, tokens are drawn from all of the vocabulary.
    """
    model: Any = asked.model
    stopped = _STOPPED.setdefault(model, {})
    past = stopped.pop((*prompt, *said), None)
    seen = torch.tensor([[*prompt, *said]], device=asked.device)  # (1, prompt + said)
    with torch.inference_mode():
        output = model.generate(
            input_ids=seen,
            attention_mask=torch.ones_like(seen),
            **({} if past is None else {"past_key_values": past}),
            return_dict_in_generate=True,
            max_new_tokens=more,
            pad_token_id=asked.tokenizer.pad_token_id or asked.tokenizer.eos_token_id,
            do_sample=False,
            logits_processor=LogitsProcessorList([_Drawn(manner, len(prompt))] if manner.temperature else []),
        )
    whole = output.sequences[0].tolist()
    tokens = (*said, *whole[seen.shape[1] :])
    if output.get("past_key_values") is not None:  # a model without attention keeps it otherwise
        stopped[tuple(whole)] = output.past_key_values
        for talk in list(stopped)[:-_TALKS]:
            del stopped[talk]
    text = str(asked.tokenizer.decode(list(tokens), skip_special_tokens=True))
    return Answer(tokens, text, bool(tokens) and tokens[-1] in _ends(asked))


def next_tokens(asked: LanguageModel, tokens: Sequence[int], likeliest: int) -> list[tuple[str, float]]:
    """Return the likeliest tokens after these, as text, each with its probability."""
    with torch.inference_mode():
        seen = torch.tensor([list(tokens)], device=asked.device)
        logits = asked.model(input_ids=seen, use_cache=False).logits[0, -1]  # (vocabulary,)
        best = logits.float().softmax(dim=0).topk(likeliest)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [(str(asked.tokenizer.decode([token])), probability) for token, probability in pairs]


def _ends(asked: LanguageModel) -> set[int]:
    """Return the tokens that an answer ends with: those of the model's settings for generation."""
    settings: Any = asked.model.generation_config
    ends = settings.eos_token_id
    return set() if ends is None else {ends} if isinstance(ends, int) else set(ends)
