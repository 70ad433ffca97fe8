"""What a trial is scored on: tasks by lm-evaluation-harness, or the held-out texts of a corpus by their loss."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from nmerge_core.corpus.held_out import held_out
from nmerge_core.evaluation import Evaluator
from nmerge_core.evaluation.loss import COLUMNS, TextLoss, text_losses
from nmerge_core.evaluation.parts import TaskParts
from nmerge_core.files.yaml_file import check_keys
from nmerge_core.loading import LanguageModel
from nmerge_core.progress import Progress
from nmerge_core.search.plan import Sweep, Weights

SCORES, SAMPLES, LOSSES = "scores.csv", "samples.jsonl", "losses.csv"
_BLOCK = 4  # problems that are told of together: of one alone, right or wrong, most differences are ties
_FIRST = 32  # problems of each task in the first part; each part after it is twice as large


@dataclass(frozen=True)
class Measured:
    """The scores of one merge, by "task/metric", and its objectives, which a sweep makes large.

    `files` are what is kept of it, problem by problem: their text, by the names that `evaluate` gives such files.
    """

    scores: Mapping[str, float]
    objectives: tuple[float, ...]
    files: Mapping[str, str] = field(default_factory=dict)


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
    objectives = [weights and _by_name(weights, evaluator) for weights in objectives]
    _check_names(objectives, evaluator.names)

    def score(language_model: LanguageModel, told: Progress, hopeless: Hopeless | None) -> Measured | None:
        if hopeless is None:
            scored = evaluator.scored(language_model, told)
        else:
            parts = TaskParts(evaluator, language_model, told)
            counts = {name: evaluator.count(name) for name in evaluator.names}
            if _gave_up(parts.score, counts, objectives[0], hopeless):
                return None
            scored = parts.scored()
        scores = scored.table
        named = {f"{row.task}/{row.metric}": float(row.value) for row in scores.itertuples()}
        values = tuple(evaluator.objective(scores, weights) for weights in objectives)
        return Measured(named, values, {SCORES: scores.to_csv(index=False), SAMPLES: scored.lines})

    return score


def _by_name(weights: Mapping[str, float], evaluator: Evaluator) -> dict[str, float]:
    """Return the weights of tasks by their names, where they are by how the sweep refers to them; a group's shared."""
    found: dict[str, float] = {}
    for reference, weight in weights.items():
        names = evaluator.names_of(reference)
        found |= {name: found.get(name, 0.0) + weight / len(names) for name in names}
    return found


def _by_loss(corpus: str, limit: int | None, objectives: Sequence[Weights]) -> Scoring:
    found = held_out(corpus).corpus
    texts = {
        name: [each.text for each in found.exemplars if each.category == name][:limit] for name in found.categories
    }
    _check_names(objectives, list(texts))

    def score(language_model: LanguageModel, told: Progress, hopeless: Hopeless | None) -> Measured | None:
        losses: dict[str, list[TextLoss]] = {name: [] for name in texts}

        def score_part(start: int, stop: int) -> dict[str, list[float]]:
            values = {}
            for name, own in texts.items():
                if own[start:stop]:
                    part = text_losses(language_model, own[start:stop], progress=told)
                    losses[name] += part
                    values[name] = [-each.nats for each in part]
            return values

        counts = {name: len(own) for name, own in texts.items()}
        if hopeless is None:
            score_part(0, max(counts.values()))
        elif _gave_up(score_part, counts, objectives[0], hopeless):
            return None
        means = {name: math.fsum(each.nats for each in own) / len(own) for name, own in losses.items()}
        shares = [_shares(weights, list(means)) for weights in objectives]
        values = tuple(-math.fsum(share * means[name] for name, share in own.items()) for own in shares)
        named = {f"{name}/loss": mean for name, mean in means.items()}
        return Measured(named, values, {LOSSES: _written(losses, language_model)})

    return score


def _written(losses: Mapping[str, Sequence[TextLoss]], language_model: LanguageModel) -> str:
    """Write losses as `held_out_losses` has them, as CSV."""
    model = {"model": language_model.label, "run_dtype": language_model.run_dtype}
    rows = [
        {"category": name, "text": place, "loss": each.nats, "tokens": each.tokens}
        for name, own in losses.items()
        for place, each in enumerate(own)
    ]
    return pd.DataFrame(rows).assign(**model)[COLUMNS].to_csv(index=False)


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
