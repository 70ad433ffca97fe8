"""Problems that are scored some at a time: those of a task by lm-eval, or a corpus's held-out texts by their loss."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from nmerge_core.corpus.held_out import held_out
from nmerge_core.errors import InputError
from nmerge_core.evaluation.loss import text_losses
from nmerge_core.evaluation.of_one import best_liked
from nmerge_core.evaluation.samples import clusters_of
from nmerge_core.evaluation.scores import Evaluator
from nmerge_core.loading import LanguageModel
from nmerge_core.progress import Progress


@dataclass(frozen=True)
class Source:
    """Where problems come from: a task, or a corpus; and what a task may do.

    `content` tells one state of its files from another.
    """

    reference: str
    content: str
    is_task: bool = True
    run_code: bool = False
    allow_task_code: bool = False


@dataclass(frozen=True)
class Problems:
    """Problems of one kind: `score` gives a number for each of those asked for, from `start` to `stop`.

    Also how many tokens each number is a mean over, where it is one: such are compared among equal tokens alone. `said`
    tells which they are, where the name does not, and `clusters` the document of each, where they share some.
    """

    name: str
    metric: str
    higher_is_better: bool
    count: int
    score: Callable[[LanguageModel, int, int, Progress], tuple[list[float], list[int]]]
    said: str = ""
    clusters: tuple[str, ...] = ()


@lru_cache(maxsize=32)
def open_problems(source: Source) -> tuple[Problems, ...]:
    """Return the problems of a task, of each task of a group, or of each category of a corpus.

    Raises:
        InputError: as `Evaluator` and `held_out`; or no metric of a task has a value for one problem alone.
    """
    return _of_task(source) if source.is_task else _of_corpus(source)


def _of_task(source: Source) -> tuple[Problems, ...]:
    evaluator = Evaluator([source.reference], run_code=source.run_code, allow_task_code=source.allow_task_code)

    def problems(name: str) -> Problems:
        task = evaluator.task(name)
        aggregations = task.aggregation()
        metric = best_liked(aggregations)
        if metric is None:
            raise InputError(
                f"task '{name}': its metrics ({', '.join(aggregations)}) are of all problems together, and none of one "
                "alone; score it on the Evaluate page"
            )

        def score(
            language_model: LanguageModel, start: int, stop: int, progress: Progress
        ) -> tuple[list[float], list[int]]:
            answered = evaluator.answered(language_model, name, range(start, stop), progress)
            values = [float(aggregations[metric]([each[metric]])) for each in answered]
            if not all(map(math.isfinite, values)):
                raise InputError(f"{language_model.label} on {name}: its {metric} is not finite ({values})")
            return values, []

        better = bool(task.higher_is_better().get(metric, True))
        return Problems(name, metric, better, len(task.eval_docs), score, clusters=clusters_of(task))

    return tuple(problems(name) for name in evaluator.names)


def _of_corpus(source: Source) -> tuple[Problems, ...]:
    found = held_out(source.reference)
    corpus = found.corpus

    def problems(category: str) -> Problems:
        texts = [each.text for each in corpus.exemplars if each.category == category]

        def score(
            language_model: LanguageModel, start: int, stop: int, progress: Progress
        ) -> tuple[list[float], list[int]]:
            losses = text_losses(language_model, texts[start:stop], progress=progress)
            return [each.nats for each in losses], [each.tokens for each in losses]

        return Problems(category, "loss", False, len(texts), score, found.said)

    return tuple(problems(category) for category in corpus.categories)


def scored(problems: Sequence[Problems], name: str) -> Problems:
    """Return the problems of a name; raises InputError where there are none."""
    found = next((each for each in problems if each.name == name), None)
    if found is None:
        raise InputError(f"{name}: expected one of {', '.join(each.name for each in problems)}")
    return found
