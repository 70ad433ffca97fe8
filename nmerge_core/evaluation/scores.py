"""Scores of models on tasks, by lm-evaluation-harness in memory.

Values are as lm-eval gives them: accuracies, exact match and pass@1 in [0, 1], chrF and BLEU in [0, 100].
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lm_eval import evaluator
from lm_eval.api.metrics import mean

from nmerge_core.cache import cache_root, task_file
from nmerge_core.checkpoints import labels
from nmerge_core.errors import InputError
from nmerge_core.evaluation.code import code_progress
from nmerge_core.evaluation.harness import Harness
from nmerge_core.evaluation.tasks import load_task
from nmerge_core.loading import LanguageModel, load_model
from nmerge_core.number_format import AUTO
from nmerge_core.progress import Progress, silent

COLUMNS = ["model", "task", "metric", "value", "stderr", "samples", "run_dtype"]
BATCH_SIZE = 64
_JACKKNIFE_GROUPS = 20
# What lm-eval meets in settings of a task that it uses only when it scores: filters, settings of generation.
_OF_A_TASK = (TypeError, ValueError, LookupError, AttributeError, re.error)


class Evaluator:
    """Tasks, loaded once, on which any number of models can be scored."""

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        limit: int | None = None,
        batch_size: int = BATCH_SIZE,
        run_code: bool = False,
        allow_task_code: bool = False,
    ) -> None:
        """Load the tasks.

        Args:
            tasks: task references as in `load_task`.
            limit: score the first this many problems of each task; all by default.
            batch_size: texts at a time; halved when they do not fit in the accelerator's memory.
            run_code: allow tasks that run what the model writes, in the sandbox.
            allow_task_code: allow tasks that bring code of their own, which runs outside of it.

        Raises:
            InputError: a task cannot be loaded, or a number is not at least 1.
        """
        if not tasks:
            raise InputError("tasks: expected at least one task, found none")
        for name, number in (("limit", limit), ("batch_size", batch_size)):
            if number is not None and number < 1:
                raise InputError(f"{name}: expected a whole number of at least 1, found {number}")
        self._limit, self._batch_size = limit, batch_size
        self._tasks = [
            (reference, load_task(reference, run_code=run_code, allow_task_code=allow_task_code))
            for reference in dict.fromkeys(tasks)
        ]
        if repeated := {name for name in self.names if self.names.count(name) > 1}:
            raise InputError(f"tasks: {', '.join(tasks)} hold '{min(repeated)}' more than once; keep one of them")

    def scores(self, language_model: LanguageModel, progress: Progress = silent) -> pd.DataFrame:
        """Score one model.

        Returns:
            Columns model, task, metric, value, stderr, samples, run_dtype; a task's primary metric is its first.
            `stderr` is the closed form for means, else a jackknife over groups of problems; NaN for a group of tasks.
        """
        rows: list[dict[str, Any]] = []
        for reference, task in self._tasks:
            stage = f"{language_model.label} on {Path(reference).name.removesuffix('.yaml')}"
            with _reporting_code(stage, progress):
                results = self._run(language_model, reference, task, stage, progress, {"limit": self._limit})
            rows += _rows(results, task["tasks"])
        facts = {"model": language_model.label, "run_dtype": language_model.run_dtype}
        return pd.DataFrame(rows).assign(**facts)[COLUMNS]

    def answered(
        self, language_model: LanguageModel, name: str, places: Sequence[int], progress: Progress = silent
    ) -> list[dict[str, Any]]:
        """Return what lm-eval logs of some problems of one task, in order, behind the task's first filter."""
        reference, task = next((reference, task) for reference, task in self._tasks if name in task["tasks"])
        alone, stage = {"tasks": {name: task["tasks"][name]}}, f"{language_model.label} on {name}"
        with _reporting_code(stage, progress):
            results = self._run(language_model, reference, alone, stage, progress, {"samples": {name: list(places)}})
        logged: list[dict[str, Any]] = results["samples"][name]
        first = [each for each in logged if each["filter"] == logged[0]["filter"]]
        return sorted(first, key=lambda each: each["doc_id"])

    def task(self, name: str) -> Any:
        """Return lm-eval's task of a name."""
        return next(task["tasks"][name] for _, task in self._tasks if name in task["tasks"])

    @property
    def names(self) -> list[str]:
        """The tasks' names, as the column `task` of the scores has them; a group's members, not the group itself."""
        return [name for _, task in self._tasks for name in task["tasks"]]

    def objective(self, scores: pd.DataFrame, weights: Mapping[str, float] | None = None) -> float:
        """Return what a search makes large: the mean (by weight) over tasks of each one's primary metric.

        A metric of which less is better counts negatively. `weights` are by task name; a task without one counts 0.
        """
        primary = scores.drop_duplicates("task").set_index("task")
        weights = dict.fromkeys(self.names, 1.0) if weights is None else weights
        total = 0.0
        for name, weight in weights.items():
            value, metric = primary.at[name, "value"], primary.at[name, "metric"].split(",")[0]
            total += weight * (value if self._higher_is_better(name, metric) else -value)
        return float(total / sum(weights.values()))

    def _higher_is_better(self, name: str, metric: str) -> bool:
        return bool(self.task(name).higher_is_better().get(metric, True))

    def _run(
        self,
        language_model: LanguageModel,
        reference: str,
        task: Any,
        stage: str,
        progress: Progress,
        chosen: Mapping[str, Any],
    ) -> dict[str, Any]:
        while True:
            try:
                return evaluator.evaluate(
                    Harness(language_model, self._batch_size, stage, progress),
                    task,
                    **chosen,
                    bootstrap_iters=0,
                    confirm_run_unsafe_code=True,  # the task was checked when it was loaded
                )
            except torch.OutOfMemoryError:
                if self._batch_size == 1:
                    raise
                self._batch_size //= 2
                torch.cuda.empty_cache()
            except _OF_A_TASK as error:
                if task_file(reference, cache_root()) is None:  # lm-eval's own task, in which nobody made a mistake
                    raise
                found = f"{type(error).__name__}: {error}"
                raise InputError(
                    f"task '{reference}': lm-eval cannot score {language_model.label} on it – {found}"
                ) from error


def evaluate(
    models: Sequence[str],
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    batch_size: int = BATCH_SIZE,
    device: str = "auto",
    run_dtype: str = AUTO,
    run_code: bool = False,
    allow_task_code: bool = False,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Score models, one after the other, on tasks; see `Evaluator` and `load_model` for the arguments."""
    if not models:
        raise InputError("models: expected at least one model, found none")
    evaluator_ = Evaluator(
        tasks, limit=limit, batch_size=batch_size, run_code=run_code, allow_task_code=allow_task_code
    )
    frames = []
    for reference, label in zip(models, labels(models), strict=True):
        language_model = dataclasses.replace(load_model(reference, device, run_dtype), label=label)
        frames.append(evaluator_.scores(language_model, progress))
    return pd.concat(frames, ignore_index=True)


def jackknife(statistic: Callable[[list[Any]], float], items: list[Any]) -> float:
    """Return the standard error of a statistic of the items, by leaving out one of up to 20 groups of them at a time.

    SE² = (g − 1)/g · Σ (θ₍ᵢ₎ − mean θ₍·₎)² over the g groups (Efron & Tibshirani 1993, Eq. 11.5, with groups for
    items). Unlike lm-eval's bootstrap it draws nothing at random, starts no processes and exists for every metric.
    """
    groups = min(_JACKKNIFE_GROUPS, len(items))
    if groups < 2:
        return math.nan
    left_out = [statistic([x for i, x in enumerate(items) if i % groups != group]) for group in range(groups)]
    centre = sum(left_out) / groups
    return math.sqrt((groups - 1) / groups * sum((value - centre) ** 2 for value in left_out))


@contextmanager
def _reporting_code(task: str, progress: Progress) -> Iterator[None]:
    def report(stage: str, done: float, total: float, unit: str = "") -> None:
        progress(f"{task}, {stage}", done, total, unit)

    token = code_progress.set(report)
    try:
        yield
    finally:
        code_progress.reset(token)


def _rows(results: dict[str, Any], tasks: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, values in results["results"].items():
        keys = [key.split(",") for key in values if "," in key and "_stderr," not in key]
        several_filters = len({chain for _, chain in keys}) > 1
        for metric, chain in keys:
            rows.append(
                {
                    "task": name,
                    "metric": f"{metric},{chain}" if several_filters else metric,
                    "value": float(values[f"{metric},{chain}"]),
                    "stderr": _stderr(tasks.get(name), metric, chain, results["samples"].get(name, [])),
                    "samples": int(values["sample_len"]),
                }
            )
    return rows


def _stderr(task: Any, metric: str, chain: str, samples: list[dict[str, Any]]) -> float:
    items = [sample[metric] for sample in samples if sample["filter"] == chain and metric in sample]
    if task is None or len(items) < 2:
        return math.nan
    aggregation = task.aggregation().get(metric, mean)
    if aggregation is mean:
        centre = sum(items) / len(items)
        return math.sqrt(sum((item - centre) ** 2 for item in items) / (len(items) - 1) / len(items))
    return jackknife(aggregation, items)
