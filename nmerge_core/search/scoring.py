"""What a trial is scored on: tasks by lm-evaluation-harness, or the held-out texts of a corpus by their loss."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from nmerge_core.evaluation import Evaluator
from nmerge_core.evaluation.loss import text_losses
from nmerge_core.evaluation.parts import TaskParts
from nmerge_core.held_out import held_out
from nmerge_core.loading import LanguageModel
from nmerge_core.progress import Progress
from nmerge_core.search.plan import Sweep, Weights
from nmerge_core.yaml_file import check_keys

_BLOCK = 4  # problems that are told of together: of one alone, right or wrong, most differences are ties
_FIRST = 32  # problems of each task in the first part; each part after it is twice as large


@dataclass(frozen=True)
class Measured:
    """The scores of one merge, by "task/metric", and its objectives, which a sweep makes large."""

    scores: Mapping[str, float]
    objectives: tuple[float, ...]


# Told what blocks of problems scored, by their numbers; whether the rest is not worth it.
Hopeless = Callable[[Mapping[int, float]], bool]
# Scores a merge; None where it was hopeless, as it is asked after each part of the problems, if it is there.
Scoring = Callable[[LanguageModel, Progress, Hopeless | None], Measured | None]


def open_scoring(plan: Sweep, *, run_code: bool = False, allow_task_code: bool = False) -> Scoring:
    """Return what a sweep's trials are scored by.

    Raises:
        InputError: a task or the corpus cannot be loaded, or an objective weighs what is not among them.
    """
    if plan.loss:
        return _by_loss(plan.loss, plan.limit, plan.objectives)
    evaluator = Evaluator(plan.tasks, limit=plan.limit, run_code=run_code, allow_task_code=allow_task_code)
    return _on_tasks(evaluator, plan.objectives)


def _on_tasks(evaluator: Evaluator, objectives: Sequence[Weights]) -> Scoring:
    _check_names(objectives, evaluator.names)

    def score(language_model: LanguageModel, told: Progress, hopeless: Hopeless | None) -> Measured | None:
        if hopeless is None:
            scores = evaluator.scored(language_model, told).table
        else:
            parts = TaskParts(evaluator, language_model, told)
            counts = {name: evaluator.count(name) for name in evaluator.names}
            if _gave_up(parts.score, counts, objectives[0], hopeless):
                return None
            scores = parts.scores()
        named = {f"{row.task}/{row.metric}": float(row.value) for row in scores.itertuples()}
        return Measured(named, tuple(evaluator.objective(scores, weights) for weights in objectives))

    return score


def _by_loss(corpus: str, limit: int | None, objectives: Sequence[Weights]) -> Scoring:
    found = held_out(corpus).corpus
    texts = {
        name: [each.text for each in found.exemplars if each.category == name][:limit] for name in found.categories
    }
    _check_names(objectives, list(texts))

    def score(language_model: LanguageModel, told: Progress, hopeless: Hopeless | None) -> Measured | None:
        losses: dict[str, list[float]] = {name: [] for name in texts}

        def part(start: int, stop: int) -> dict[str, list[float]]:
            values = {}
            for name, own in texts.items():
                if own[start:stop]:
                    nats = [each.nats for each in text_losses(language_model, own[start:stop], progress=told)]
                    losses[name] += nats
                    values[name] = [-each for each in nats]
            return values

        counts = {name: len(own) for name, own in texts.items()}
        if hopeless is None:
            part(0, max(counts.values()))
        elif _gave_up(part, counts, objectives[0], hopeless):
            return None
        means = {name: math.fsum(nats) / len(nats) for name, nats in losses.items()}
        shares = [_shares(weights, list(means)) for weights in objectives]
        values = tuple(-math.fsum(share * means[name] for name, share in own.items()) for own in shares)
        return Measured({f"{name}/loss": mean for name, mean in means.items()}, values)

    return score


def _gave_up(
    score: Callable[[int, int], Mapping[str, Sequence[float]]],
    counts: Mapping[str, int],
    weights: Weights,
    hopeless: Hopeless,
) -> bool:
    """Score all problems part by part, unless they are found hopeless before the last; a problem tells as it counts."""
    shares, last = _shares(weights, list(counts)), max(counts.values())
    firsts, first = {}, 0  # the number of each task's first block
    for name, count in counts.items():
        firsts[name], first = first, first + math.ceil(count / _BLOCK)
    for start, stop in _parts(last):
        blocks = {}
        for name, values in score(start, stop).items():
            for place in range(0, len(values), _BLOCK):
                own = values[place : place + _BLOCK]
                number = firsts[name] + (start + place) // _BLOCK
                blocks[number] = shares.get(name, 0.0) / counts[name] * math.fsum(own)
        if hopeless(blocks) and stop < last:
            return True
    return False


def _parts(last: int) -> Iterator[tuple[int, int]]:
    """Yield from which problem to before which: 32, then twice as many each time, to the last."""
    start, size = 0, _FIRST
    while start < last:
        yield start, start + size
        start, size = start + size, 2 * size


def _shares(weights: Weights, names: Sequence[str]) -> dict[str, float]:
    """Return what each score counts in an objective; in sum 1."""
    own = dict.fromkeys(names, 1.0) if weights is None else weights
    return {name: weight / sum(own.values()) for name, weight in own.items()}


def _check_names(objectives: Sequence[Weights], names: Sequence[str]) -> None:
    for weights in objectives:
        check_keys(weights or (), names, "sweep, key 'objective'")
