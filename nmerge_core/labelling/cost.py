"""What labelling will take, told before it starts: requests and tokens, to the nearest order."""

from collections.abc import Sequence
from dataclasses import dataclass

from nmerge_core.labelling.parameter import endpoint_of
from nmerge_core.labelling.prompts import detection_prompt, label_prompt
from nmerge_core.labelling.shown import AFTER, BEFORE, HELD_OUT, SHOWN

_CHARACTERS = 4  # of a token, in English
_EXCERPT = BEFORE + 1 + AFTER + 8  # tokens, those of its number, quotes and marks too
_LINE, _EXPLANATION, _NUMBERS = 6, 24, 16  # tokens of an answer: a line on an excerpt, an explanation, a list of texts


@dataclass(frozen=True)
class Cost:
    """Requests, and about how many tokens they have and are answered with."""

    requests: int
    prompt_tokens: int
    answer_tokens: int

    @property
    def told(self) -> str:
        """It in words."""
        return (
            f"about {self.requests:,} requests of {self.prompt_tokens:,} tokens in all, "
            f"{self.answer_tokens:,} tokens of answers"
        )


def leaves_for(by: str) -> str:
    """Say where excerpts of texts are sent; empty where a model on this machine labels."""
    if not (endpoint := endpoint_of(by)):
        return ""
    return f"Excerpts of the corpus's texts are sent to {endpoint.host}{', unencrypted' if endpoint.overheard else ''}"


def estimate(neurons: int, categories: Sequence[str]) -> Cost:
    """Estimate what it takes to label so many neurons: two questions each."""
    label = len(label_prompt(categories, [])) // _CHARACTERS + SHOWN * _EXCERPT
    detection = len(detection_prompt("", [])) // _CHARACTERS + 2 * HELD_OUT * _EXCERPT + _EXPLANATION
    answers = SHOWN * _LINE + _EXPLANATION + _NUMBERS
    return Cost(2 * neurons, neurons * (label + detection), neurons * answers)
