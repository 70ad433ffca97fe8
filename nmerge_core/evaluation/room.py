"""Whether problems fit with their answers in what a model takes; lm-eval would cut them."""

from collections.abc import Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.utils import normalize_gen_kwargs

from nmerge_core.errors import InputError
from nmerge_core.evaluation.harness import SEQ2SEQ


def check_room(model: Any, stage: str, requests: Sequence[Instance]) -> None:
    """Raise an InputError where problems with their answers are longer than lm-eval's `model` takes.

    `stage` tells which model on which task. Whole texts are scored in windows, and always fit.
    """
    long, longest = set(), 0
    for request in requests:
        room = model.max_length
        if request.request_type == "generate_until":
            prompt, settings = request.args
            answer = normalize_gen_kwargs(settings, model.max_gen_toks)["max_gen_toks"]
            length = _places(model, len(model.tok_encode(prompt)), answer)
        elif request.request_type == "loglikelihood" and _apart(model):
            length = _places(model, *(len(model.tok_encode(text)) for text in request.args))
        elif request.request_type == "loglikelihood":
            length = len(model.tok_encode("".join(request.args)))
            room += bool(request.args[0])  # the last token is never read; before a text alone stands another
        else:
            continue
        if length > room:
            long.add(request.doc_id)
            longest = max(longest, length)
    if long:
        problems = len({request.doc_id for request in requests})
        raise InputError(
            f"{stage}: expected problems that fit with their answers in the {model.max_length:,} tokens that the model "
            f"takes, found {len(long):,} of {problems:,} that do not, the longest of {longest:,} with its answer; give "
            "fewer examples, lower max_gen_toks in the task's YAML, or leave the task or the model out"
        )


def _apart(model: Any) -> bool:
    return getattr(model, "backend", "") == SEQ2SEQ


def _places(model: Any, prompt: int, answer: int) -> int:
    """Return how much of a model's length a prompt and its answer take: an encoder-decoder reads them apart."""
    return max(prompt, answer) if _apart(model) else prompt + answer
