"""Who answers questions about neurons: a chat model on this machine, or one that an endpoint serves."""

from dataclasses import dataclass

from nmerge_core.answers import Answer, Manner, forget, go_on, prompt_tokens
from nmerge_core.checkpoints import label, open_checkpoint
from nmerge_core.checkpoints.tokenizer import load_tokenizer
from nmerge_core.errors import InputError
from nmerge_core.labelling.endpoint import Served
from nmerge_core.labelling.parameter import endpoint_of, key_in
from nmerge_core.labelling.reply import Heed, Labeller, Reply
from nmerge_core.loading import LanguageModel, load_model

_PART = 16  # tokens that are said at once, between which a run can be cancelled


@dataclass(frozen=True)
class Local:
    """A chat model on this machine."""

    language_model: LanguageModel
    longest: int  # tokens of an answer

    def check(self, prompt: str) -> None:
        """See `Labeller`."""
        asked, limit = self.language_model, self.language_model.longest(1 << 30)
        if (needed := len(prompt_tokens(asked, prompt, chat=True)) + self.longest) > limit:
            raise InputError(
                f"{asked.label}: a question about a neuron and its answer take {needed:,} tokens, and the model reads "
                f"{limit:,}; name a model that reads more, or lower answer_tokens ({self.longest:,})"
            )

    def ask(self, prompt: str, heed: Heed) -> Reply:
        """See `Labeller`."""
        tokens, answer = prompt_tokens(self.language_model, prompt, chat=True), Answer((), "", ended=False)
        while not answer.ended and (left := self.longest - len(answer.tokens)) > 0:
            heed()
            answer = go_on(self.language_model, tokens, answer.tokens, min(_PART, left), Manner(chat=True))
        forget(self.language_model.model)  # what it keeps to go on with
        return Reply(answer.text, len(tokens), len(answer.tokens))


def check_labeller(by: str, key_from: str | None) -> None:
    """Check without loading a model that a labeller can be asked.

    Raises:
        InputError: a model has no chat template, or an endpoint's key is not in the environment.
    """
    if endpoint_of(by):
        key_in(key_from)
    elif key_from is not None:
        raise InputError(f"key_from: only an endpoint, NAME@URL, takes a key; {label(by)} runs on this machine")
    elif not getattr(load_tokenizer(open_checkpoint(by)), "chat_template", None):
        raise InputError(f"{label(by)}: has no chat template; expected a chat model, or NAME@URL of an endpoint")


def open_labeller(by: str, key_from: str | None, answer_tokens: int, device: str) -> Labeller:
    """Load a labeller, or make ready to ask an endpoint.

    Args:
        by: a chat model, or NAME@URL.
        key_from: the environment variable with an endpoint's key.
        answer_tokens: the longest answer.
        device: of a model on this machine.
    """
    if endpoint := endpoint_of(by):
        return Served(endpoint, key_in(key_from), answer_tokens)
    return Local(load_model(by, device), answer_tokens)
