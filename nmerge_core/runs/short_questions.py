"""The short questions that the worker answers, between the steps of a run."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nmerge_core.merging.plan.kept import NotMeasured
from nmerge_core.runs.answering import heed
from nmerge_core.runs.held import LIVE, MODELS
from nmerge_core.runs.kept import needs_of, provisional
from nmerge_core.runs.merge_questions import MergeQuestions
from nmerge_core.runs.neuron_questions import NeuronQuestions

if TYPE_CHECKING:
    from nmerge_core.loading import LanguageModel

# The bodies import what they need: the page process knows these names without importing torch.


def generate(model: str, prompt: str, max_new_tokens: int = 64) -> str:
    """Return the greedy continuation of `prompt`, at most `max_new_tokens` tokens, without special tokens."""
    answer: str = speak(model, prompt, more=max_new_tokens)["answer"]
    return answer


def speak(
    model: str, prompt: str, said: Sequence[int] = (), more: int = 64, manner: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Let a model say at most `more` tokens after a prompt and the tokens it has `said`.

    Args:
        model: A model folder or a Hub id.
        prompt: What it is asked.
        said: The "tokens" of its answer so far.
        more: How many tokens are to come.
        manner: The fields of `answers.Manner`.

    Returns:
        "answer", the whole text so far, its "tokens", and whether it has "ended".
    """
    return _said(MODELS.get(model), prompt, said, more, manner)


def live(
    recipe: Mapping[str, Any],
    prompt: str,
    said: Sequence[int] = (),
    more: int = 64,
    manner: Mapping[str, Any] | None = None,
    likeliest: int = 5,
) -> dict[str, Any]:
    """Merge a recipe in memory and let the merge answer as `speak` does.

    Returns:
        What `speak` returns; with the first part of an answer "next", the likeliest tokens after the prompt, {"token":
        text, "probability": p}; "tensors" that were merged anew "of" all; "seconds" that merging took; "reread", why
        the models had to be read again for it, if they had. Where runs have to measure first what it is merged by
        "needs" alone: the "kind", "parameters" and about the "seconds" of each. Where what another run has measured
        stands in for that both, and "provisional" says what it is.
    """
    from nmerge_core.answers import next_tokens, prompt_tokens

    try:
        merged, followed = LIVE.follow(recipe, provisional=True)
    except NotMeasured as error:
        return {"needs": needs_of(error.measurements)}
    heed("Answering", 0, 0)
    loaded, following = merged.language_model, {}
    if not said:
        tokens = prompt_tokens(loaded, prompt, chat=bool((manner or {}).get("chat")))
        pairs = next_tokens(loaded, tokens, likeliest)
        following["next"] = [{"token": token, "probability": probability} for token, probability in pairs]
    return (
        _said(loaded, prompt, said, more, manner)
        | following
        | {
            "tensors": followed.tensors,
            "of": followed.of,
            "seconds": followed.seconds,
            "reread": LIVE.reread(),
            **provisional(followed.stand_ins),
        }
    )


def problems(
    tasks: Sequence[str] = (), corpus: str | None = None, run_code: bool = False, allow_task_code: bool = False
) -> list[dict[str, Any]]:
    """Return what quick scores are of: a row for each task of `tasks`, then for each category held out of `corpus`.

    Returns:
        "source", to be given to `quick_scores` with the "name"; "metric", whether "higher_is_better", the "count" of
        problems, and which they are where that is "said". Of what cannot be scored there is the "name" and, as
        "lacks", why.
    """
    from nmerge_core.runs.quick import rows

    return rows(tasks, corpus, run_code, allow_task_code)


def quick_scores(
    source: Mapping[str, Any],
    name: str,
    start: int,
    stop: int,
    model: str | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Score a model, or the merge of a recipe in memory, on the next few problems of a row of `problems`.

    They begin with the problem `start` and end before `stop`, earlier than that where there are more than a few. What a
    model scored is kept by the content of all that it follows from, and comes at once; a merge's is not.

    Returns:
        "values", one per problem; "tokens" of each where that is a mean over tokens; "run_dtype".
    """
    from nmerge_core.runs.quick import kept_scores, scores

    if recipe is not None:
        return scores(LIVE.follow(recipe)[0].language_model, source, name, start, stop)
    assert model is not None
    return kept_scores(MODELS, model, source, name, start, stop)


def _said(
    asked: "LanguageModel", prompt: str, said: Sequence[int], more: int, manner: Mapping[str, Any] | None
) -> dict[str, Any]:
    from nmerge_core.answers import Manner, go_on, prompt_tokens

    how = Manner(**(manner or {}))
    answer = go_on(asked, prompt_tokens(asked, prompt, chat=how.chat), said, more, how)
    return {"answer": answer.text, "tokens": list(answer.tokens), "ended": answer.ended}


QUESTIONS: dict[str, Callable[..., Any]] = {
    "generate": generate,
    "speak": speak,
    "live": live,
    "problems": problems,
    "quick_scores": quick_scores,
    **NeuronQuestions(MODELS).by_name,
    **MergeQuestions(MODELS, LIVE).by_name,
}
