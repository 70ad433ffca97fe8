"""Scores that come in some problems at a time, so that scoring can end early; in the end they are those of all.

A task that draws the examples before its problems draws them anew for each part.
"""

import math
from typing import Any

import pandas as pd

from nmerge_core.errors import InputError
from nmerge_core.evaluation.of_one import OF_ONE
from nmerge_core.evaluation.score_rows import metrics_in, rows_of, samples_in
from nmerge_core.evaluation.scores import COLUMNS, Evaluator, Scored
from nmerge_core.loading import LanguageModel
from nmerge_core.progress import Progress


class TaskParts:
    """A model's scores on the tasks of an evaluator, the same problems of each at a time."""

    def __init__(self, evaluator: Evaluator, language_model: LanguageModel, progress: Progress) -> None:
        """Begin with no problem."""
        self._evaluator, self._model, self._progress = evaluator, language_model, progress
        self._results: dict[str, dict[str, Any]] = {}  # of each task: lm-eval's of its last part
        self._logged: dict[str, list[dict[str, Any]]] = {name: [] for name in evaluator.names}

    def score(self, start: int, stop: int) -> dict[str, list[float]]:
        """Score the problems from `start` to `stop` of every task that has such; return what each scored.

        That is the task's primary metric of one problem alone, negative where less is better.

        Raises:
            InputError: that metric is of all problems together.
        """
        found = {}
        for name in self._evaluator.names:
            places = range(start, min(stop, self._evaluator.count(name)))
            if places:
                self._results[name] = self._evaluator.part(self._model, name, places, self._progress)
                logged = sorted(self._results[name]["samples"][name], key=lambda each: each["doc_id"])
                self._logged[name] += logged
                found[name] = self._values(name, logged)
        return found

    def _values(self, name: str, logged: list[dict[str, Any]]) -> list[float]:
        metric, chain = metrics_in(self._results[name], name)[0]
        of_one = self._evaluator.task(name).aggregation()[metric]
        if of_one not in OF_ONE:
            raise InputError(
                f"task '{name}': its {metric} is of all problems together, and of none alone; sweep without `prune`"
            )
        sign = 1 if self._evaluator.higher_is_better(name, metric) else -1
        return [sign * float(of_one([each[metric]])) for each in logged if each["filter"] == chain]

    def scored(self) -> Scored:
        """Return the scores on all problems so far, as `Evaluator.scored` does, without how they were asked."""
        rows: list[dict[str, Any]] = []
        samples: list[dict[str, Any]] = []
        for name, logged in self._logged.items():
            task, last = self._evaluator.task(name), self._results[name]
            values: dict[str, float] = {}
            for metric, chain in metrics_in(last, name):
                items = [each[metric] for each in logged if each["filter"] == chain and metric in each]
                values[f"{metric},{chain}"] = task.aggregation()[metric](items) if items else math.nan
            counted = values | {"sample_len": len({each["doc_id"] for each in logged})}
            whole = last | {"results": {name: counted}, "samples": {name: logged}}
            own_samples = samples_in(whole, {name: task})
            rows += rows_of(whole, {name: task}, own_samples)
            samples += own_samples
        model = {"model": self._model.label}
        table = pd.DataFrame(rows).assign(**model, run_dtype=self._model.run_dtype).reindex(columns=COLUMNS)
        return Scored(table, [model | each for each in samples])
