"""What every labeller does: it answers questions, and tells what an answer took."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

Heed = Callable[[], object]
"""Called often while an answer is waited for; where it raises, nobody waits any more."""


@dataclass(frozen=True)
class Reply:
    """An answer, and the tokens that it took: those of the question as the model was given it, and its own."""

    text: str
    prompt_tokens: int
    answer_tokens: int


class Labeller(Protocol):
    """Answers questions, each by itself, greedily."""

    def check(self, prompt: str) -> None:
        """Raise an InputError where a question and the longest answer are more than the model is known to read."""

    def ask(self, prompt: str, heed: Heed) -> Reply:
        """Answer a question; raises an InputError where no answer is to be had."""
