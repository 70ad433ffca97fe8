"""What the worker can do: one function per kind of run, and the short questions."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmerge_core.merging.plan.kept import NotMeasured
from nmerge_core.progress import Progress
from nmerge_core.runs.answering import heed
from nmerge_core.runs.kept import finished_results, needs_of, provisional
from nmerge_core.runs.memory import free_memory, memory_needed
from nmerge_core.runs.merge_questions import MergeQuestions
from nmerge_core.runs.models import LiveMerges, LoadedModels
from nmerge_core.runs.perform import Operation

if TYPE_CHECKING:
    from nmerge_core.loading import LanguageModel

# The bodies import what they need: the page process knows these names without importing torch.


def classify(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write a classification folder."""
    from nmerge_core.classification import classify

    classify(**parameters, out=results, progress=progress)


def cosine(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write cosine.csv (mean, percentiles per model, layer and matrix) and moved.csv (the neurons that moved most)."""
    from nmerge_core.similarity import cosine

    found = cosine(parameters["base"], parameters["models"], progress=progress)
    found.summary.to_csv(results / "cosine.csv", index=False)
    found.moved.to_csv(results / "moved.csv", index=False)


def inherited(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write inherited.parquet: what each neuron of a merge kept of each fine-tune's change."""
    from nmerge_core.inheritance.measure import inherited

    inherited(**parameters, progress=progress).to_parquet(results / "inherited.parquet", index=False)


def knockout(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write knockout.csv and effects.csv; a stopped knock-out goes on after what it has measured last."""
    from nmerge_core.ablation import knockout

    knockout(**parameters, out=results, progress=progress)


def effects(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write effects.csv; goes on as a knock-out does."""
    from nmerge_core.ablation import effects

    effects(**parameters, out=results, progress=progress)


def linearity(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write linearity.csv and, where each model's category is known, coefficients.csv."""
    from nmerge_core import nonlinearity

    shared = {name: parameters[name] for name in ("base", "models", "corpus", "samples", "seed", "device")}
    nonlinearity.measure(**shared, neurons=parameters["neurons"], progress=progress).to_csv(
        results / "linearity.csv", index=False
    )
    if parameters["categories"]:
        solved = nonlinearity.solve(**shared, categories=parameters["categories"], progress=progress)
        solved.to_frame().to_csv(results / "coefficients.csv", index=False)
        for warning in solved.warnings:
            logging.warning(warning)


def coefficients(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write coefficients.json, for merges, and coefficients.csv, for people."""
    from nmerge_core.merging.plan.coefficients import solve_coefficients

    solved = solve_coefficients(**parameters, progress=progress)
    solved.write(results)
    solved.to_frame().to_csv(results / "coefficients.csv", index=False)


def statistics(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write a statistics folder."""
    from nmerge_core.calibration import collect

    collect(**parameters, out=results, progress=progress)


def merge(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write merged/, a complete checkpoint; a killed merge continues where it stopped (mergekit's begins again)."""
    from nmerge_core.merging.engine import load, merge

    out = results / "merged"
    if not out.exists():  # else the process was killed between the end of the merge and the end of the run
        merge(load(parameters["recipe"]), out, device=parameters["device"], progress=progress, kept=finished_results)


def extract(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write adapter/, which PEFT opens, and changes.csv."""
    from nmerge_core.lora.extract import extract

    extract(**parameters, out=results / "adapter", progress=progress).to_csv(results / "changes.csv", index=False)


def evaluate(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write scores.csv, and samples.jsonl with what was asked and answered."""
    from nmerge_core.evaluation import evaluate

    found = evaluate(**parameters, samples=results / "samples.jsonl", progress=progress)
    found.to_csv(results / "scores.csv", index=False)


def loss(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write losses.csv."""
    from nmerge_core.evaluation.loss import held_out_losses

    held_out_losses(**parameters, progress=progress).to_csv(results / "losses.csv", index=False)


def sweep(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write trials.csv, best.yaml and what the sweep keeps; a stopped sweep goes on after its last trial."""
    from nmerge_core.search.reading import load_sweep
    from nmerge_core.search.trials_loop import sweep

    plan = load_sweep(parameters["sweep"])
    given = {name: value for name, value in parameters.items() if name != "sweep"}
    sweep(plan, results, **given, progress=progress, kept=finished_results)


def report(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
    """Write index.html, report.ipynb, tables, figures and what was measured; a stopped report goes on where it was."""
    from nmerge_core.reports.make import make_report
    from nmerge_core.reports.parameter import open_family

    given = {name: value for name, value in parameters.items() if name != "family"}
    family = open_family(parameters["family"])
    make_report(family, results, **given, in_cache=True, progress=progress, kept=finished_results)


# Of the questions only: a run loads its own models, so that no question meets a run's hooks.
_MODELS, _LIVE = LoadedModels(), LiveMerges()


def _with_room(operation: Operation) -> Operation:
    """Free what questions have loaded, and then what a live merge holds, where a run does not fit beside it."""

    def run(parameters: Mapping[str, Any], results: Path, progress: Progress) -> None:
        needed = memory_needed(operation.__name__, parameters)
        if needed > free_memory():
            _MODELS.release()
        with _LIVE.beside(needed):
            operation(parameters, results, progress)

    return run


def spare() -> None:
    """Free what questions have loaded and nobody has asked about for some minutes."""
    _LIVE.spare()
    _MODELS.spare()


def tell_lost() -> None:
    """Say in the next answer of a live merge that the process which held its models was lost."""
    _LIVE.lost = "the worker process was lost (killed, or out of memory)"


_RUNS = (
    classify, cosine, inherited, knockout, effects, linearity, coefficients, statistics, merge, extract, evaluate, loss,
    sweep, report,
)  # fmt: skip
OPERATIONS: dict[str, Operation] = {operation.__name__: _with_room(operation) for operation in _RUNS}


def token_activations(
    model: str, layer: int, neuron: int, texts: list[str], max_length: int = 512
) -> list[dict[str, Any]]:
    """Return for each text its tokens and the activation of one neuron on each: {"tokens": […], "values": […]}."""
    from nmerge_core.activations.collect import token_activations

    found = token_activations(_MODELS.get(model), texts, layer, neuron, max_length)
    return [{"tokens": list(text.tokens), "values": [float(value) for value in text.values]} for text in found]


def neuron_changes(
    base: str, models: Sequence[str], merges: Sequence[str], layer: int, neuron: int
) -> dict[str, list[Any]]:
    """Return what fine-tunes and merges changed in one neuron: `inheritance.tables.NeuronChanges` as lists."""
    from nmerge_core.inheritance.measure import neuron_changes

    found = neuron_changes(base, models, merges, layer, neuron)
    return {"sizes": found.sizes.tolist(), "cosines": found.cosines.tolist(), "kept": found.kept.tolist()}


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
    return _said(_MODELS.get(model), prompt, said, more, manner)


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
        merged, followed = _LIVE.follow(recipe, provisional=True)
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
            "reread": _LIVE.reread(),
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
        return scores(_LIVE.follow(recipe)[0].language_model, source, name, start, stop)
    assert model is not None
    return kept_scores(_MODELS, model, source, name, start, stop)


def _said(
    asked: "LanguageModel", prompt: str, said: Sequence[int], more: int, manner: Mapping[str, Any] | None
) -> dict[str, Any]:
    from nmerge_core.answers import Manner, go_on, prompt_tokens

    how = Manner(**(manner or {}))
    answer = go_on(asked, prompt_tokens(asked, prompt, chat=how.chat), said, more, how)
    return {"answer": answer.text, "tokens": list(answer.tokens), "ended": answer.ended}


QUESTIONS: dict[str, Callable[..., Any]] = {
    "token_activations": token_activations,
    "neuron_changes": neuron_changes,
    "generate": generate,
    "speak": speak,
    "live": live,
    "problems": problems,
    "quick_scores": quick_scores,
    **MergeQuestions(_MODELS, _LIVE).by_name,
}
