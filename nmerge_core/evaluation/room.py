"""Whether problems fit with their answers in what a model takes; lm-eval would cut them."""

from collections.abc import Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.utils import normalize_gen_kwargs

from nmerge_core.errors import InputError


def check_room(model: Any, stage: str, requests: Sequence[Instance]) -> None:
    """Raise an InputError where problems with their answers are longer than lm-eval's `model` takes.

    `stage` tells which model on which task. Whole texts are scored in windows, and always fit.
    """
    long, longest = set(), 0
    for request in requests:
        room = model.max_length
        if request.request_type == "generate_until":
            prompt, settings = request.args
            length = len(model.tok_encode(prompt)) + normalize_gen_kwargs(settings, model.max_gen_toks)["max_gen_toks"]
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
