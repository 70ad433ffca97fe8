"""Coefficients that a method searches with whole candidates: what it measures them on, how it searches, what it found.

A coefficient is one number per model for each part of a model; they travel as {part: [a number per model]}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from nmerge_core.cache import cache_root
from nmerge_core.errors import InputError
from nmerge_core.evolution import Found, minimise
from nmerge_core.inputs import Places
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.plan.trail import trail_of
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.values import Values
from nmerge_core.number_format import FLOAT32

if TYPE_CHECKING:
    from nmerge_core.corpus.text_samples import Batch
    from nmerge_core.evaluation import Evaluator
    from nmerge_core.merging.plan.candidate import Candidate

# What is imported in functions brings transformers or lm-eval along, which a look at the methods does not need.

MODEL = "model"  # the one part, where a coefficient is for the whole of a model
_BATCH_TOKENS = 512  # 0.3 GB of logits at a vocabulary of 150,000
_MAX_LENGTH = 512  # tokens a text is cut to


def check_coefficients(context: Context, values: Values, parts: Sequence[str]) -> None:
    """Check the coefficients that the recipe brings; where it brings none, that candidates can be merged in memory.

    Raises:
        InputError: they are not a number per model and part, or rows of embeddings have to be matched by their tokens.
    """
    given, count = values.shared["coefficients"], len(context.recipe.models)
    if given is None:
        if context.stream.vocabulary:
            raise InputError(
                "recipe, key 'tokenizer': a search in memory merges rows by position; expected models of one "
                "vocabulary, found others; give the coefficients, or search with the command `sweep`, which writes "
                "each candidate"
            )
    elif not (
        isinstance(given, Mapping) and set(given) == set(parts) and all(_numbers(v, count) for v in given.values())
    ):
        expected = f"{count} numbers, one per model, for each of {', '.join(parts)}"
        raise context.wrong("parameters.coefficients", expected, given)


def searches(values: Values) -> bool:
    """Whether coefficients have to be searched: the recipe brings none."""
    return values.shared["coefficients"] is None


def found_coefficients(context: Context, coefficients: Mapping[str, list[float]], **report: Any) -> Prepared:
    """Make facts of coefficients: the merge by them, the recipe that brings them, and the report that shows them."""
    if MODEL in coefficients:
        shown: dict[str, Any] = {"scales": dict(zip(context.labels, coefficients[MODEL], strict=True))}
    else:
        rows = [
            {"layer": int(part), "part": "layer", "model": model, "coefficient": value}
            for part, own in coefficients.items()
            if part.isdigit()
            for model, value in zip(context.labels, own, strict=True)
        ]
        shown = {"coefficients": rows}
    return Prepared(coefficients, solved={"coefficients": dict(coefficients)}, report={**shown, **report})


def search(
    context: Context,
    values: Values,
    loss: Callable[[list[float], Callable[[], None]], float],
    *,
    low: float,
    high: float,
) -> Found:
    """Search a coefficient per model in [low, high] by CMA-ES, with the recipe's seed and number of `evaluations`.

    It begins in the middle of the range, with a standard deviation of a sixth of it; after a kill it goes on.

    Raises:
        InputError: the loss of every candidate is NaN or infinite.
    """
    evaluations = values.shared["evaluations"]
    with trail_of(context) as trail:

        def objective(point: list[float], tick: Callable[[], None]) -> float:
            return trail.measured(point, lambda: [loss(point, tick)])[0]

        found = minimise(
            objective,
            len(context.recipe.models),
            low=low,
            high=high,
            evaluations=evaluations,
            seed=context.recipe.seed,
            progress=lambda done: context.progress("Searching coefficients", done, evaluations, "candidates"),
        )
    if not isfinite(found.value):
        raise context.wrong(
            "parameters", "texts or tasks on which some candidate scores a number", "NaN for all of them"
        )
    return found


def load_texts(context: Context, values: Values, categories: Sequence[str]) -> list[Batch]:
    """Draw `samples` texts of each category from the calibration corpus, in batches whose logits are small.

    Raises:
        InputError: the calibration corpus has no such category.
    """
    from nmerge_core.corpus.text_samples import draw

    return draw(
        context.calibration(values),
        categories,
        context.stream.donor,
        samples=values.shared["samples"],
        max_length=_MAX_LENGTH,
        seed=context.recipe.seed,
        batch_tokens=_BATCH_TOKENS,
    )


def load_evaluator(context: Context, values: Values) -> Evaluator:
    """Load the tasks that candidates are scored on; raises InputError where one cannot be loaded."""
    from nmerge_core.evaluation import Evaluator

    places = Places(cache_root(), context.recipe.folder)
    tasks = [places.task(task)[0] for task in values.shared["tasks"]]  # as in the key of a run
    return Evaluator(tasks, limit=values.shared["limit"], run_code=values.shared["run_code"])


def candidate_of(context: Context, *, exact: bool = False) -> Candidate:
    """Load a model to merge into in memory: rounded as the output is, or, if `exact`, in float32 from end to end."""
    from nmerge_core.merging.plan.candidate import load_candidate

    if exact:
        return load_candidate(context.stream, context.names, FLOAT32, FLOAT32)
    return load_candidate(context.stream, context.names, context.recipe.dtype, context.recipe.run_dtype)


def _numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(v, int | float) and not isinstance(v, bool) and isfinite(v) for v in values)
    )
