"""Scores of models on tasks, by lm-evaluation-harness in memory.

Values are as lm-eval gives them: accuracies, exact match and pass@1 in [0, 1], chrF and BLEU in [0, 100].
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lm_eval import evaluator

from nmerge_core.cache import task_data
from nmerge_core.errors import InputError
from nmerge_core.evaluation.code import code_progress
from nmerge_core.evaluation.examples import draw_from_the_others
from nmerge_core.evaluation.harness import Harness
from nmerge_core.evaluation.image_harness import ImageHarness
from nmerge_core.evaluation.image_task import CLASSIFY_IMAGE
from nmerge_core.evaluation.room import check_room
from nmerge_core.evaluation.samples import check_cluster
from nmerge_core.evaluation.score_rows import rows_of, samples_in
from nmerge_core.evaluation.served import Served
from nmerge_core.evaluation.task_faults import faults_of
from nmerge_core.evaluation.tasks import load_task
from nmerge_core.loading import ImageModel, LanguageModel
from nmerge_core.machine import CPU
from nmerge_core.parameters.settings import (
    ALLOW_TASK_CODE,
    CHAT_TEMPLATE,
    DECODING,
    EVALUATE_BATCH,
    EVALUATE_SEED,
    LIMIT,
    RUN_CODE,
    SHOTS,
    TRANSFORMERS,
)
from nmerge_core.progress import Progress, silent

Model = LanguageModel | Served

COLUMNS = [
    "model", "task", "group", "metric", "value", "low", "high", "interval", "stderr", "samples", "higher_is_better",
    "signature", "shots", "chat_template", "decoding", "batch_size", "batch_used", "seed", "run_dtype", "backend",
    "task_version", "lm_eval",
]  # fmt: skip


@dataclass(frozen=True)
class Scored:
    """What a model scores, and what it answered, problem by problem (`samples.samples_of`, with model and task)."""

    table: pd.DataFrame
    samples: list[dict[str, Any]]

    @property
    def lines(self) -> str:
        """The samples as JSON Lines."""
        return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in self.samples)


class Evaluator:
    """Tasks, loaded once, on which any number of models can be scored."""

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        limit: int | None = LIMIT.default,
        shots: int | None = SHOTS.default,
        chat_template: bool = CHAT_TEMPLATE.default,
        decoding: str = DECODING.default,
        batch_size: int | str = EVALUATE_BATCH.default,
        seed: int = EVALUATE_SEED.default,
        run_code: bool = RUN_CODE.default,
        allow_task_code: bool = ALLOW_TASK_CODE.default,
    ) -> None:
        """Load the tasks.

        Args:
            tasks: task references as in `load_task`.
            limit: score the first this many problems of each task; all by default.
            shots: solved examples before each problem; as many as each task says by default.
            chat_template: ask each problem as a turn of the model's chat template, the examples as turns before it.
            decoding: "alike", greedily unless the task draws, without what a checkpoint says but for its end tokens; or
                "own", by each checkpoint's own settings, as lm-eval does.
            batch_size: texts at a time, or "auto"; halved when they do not fit in memory.
            seed: decides which examples stand before problems, and what a task draws.
            run_code: allow tasks that run what the model writes, in the sandbox.
            allow_task_code: allow tasks that bring code of their own, which runs outside of it.

        Raises:
            InputError: a task cannot be loaded, or a parameter is out of range.
        """
        if not tasks:
            raise InputError("tasks: expected at least one task, found none")
        given = {"limit": limit, "shots": shots, "decoding": decoding, "batch_size": batch_size, "seed": seed}
        for parameter in (LIMIT, SHOTS, DECODING, EVALUATE_BATCH, EVALUATE_SEED):
            parameter.check(given[parameter.name], parameter.name)
        self._limit, self._chat = limit, chat_template
        self.decoding, self.seed, self.batch_size = decoding, seed, batch_size
        self._tasks = [
            (reference, load_task(reference, run_code=run_code, allow_task_code=allow_task_code))
            for reference in dict.fromkeys(tasks)
        ]
        if repeated := {name for name in self.names if self.names.count(name) > 1}:
            raise InputError(f"tasks: {', '.join(tasks)} hold '{min(repeated)}' more than once; keep one of them")
        for name in self.names:
            task = self.task(name)
            check_cluster(task)
            # Before whole texts, and images, nothing stands.
            has_prompts = task.OUTPUT_TYPE not in ("loglikelihood_rolling", CLASSIFY_IMAGE)
            if shots is not None and has_prompts:
                task.set_config(key="num_fewshot", value=shots)
            draw_from_the_others(task, name)

    def scored(self, language_model: Model, progress: Progress = silent) -> Scored:
        """Score one model, in memory or served.

        Returns:
            A table with the columns `COLUMNS`, a task's primary metric its first. `low` and `high` are the ends of the
            95 % interval that `interval` names: Wilson's of right or wrong, a bootstrap's of other means, else ± 1.96
            `stderr`, which is the closed form for means, else a jackknife over groups of problems; NaN for a group of
            tasks, which `group` marks. `signature` is sacrebleu's, of its metrics; `batch_size` is what was asked for,
            `batch_used` what fitted in memory. And the samples.

        Raises:
            InputError: a problem with its answer is longer than the model takes; or a task cannot be scored.
        """
        rows: list[dict[str, Any]] = []
        samples: list[dict[str, Any]] = []
        chosen = {"limit": self._limit}
        for reference, task in self._tasks:
            with faults_of(reference, language_model.label):
                harness = self._harness(language_model, reference, task, progress)
                self._check_room(harness, language_model, reference, task, chosen)
        for reference, task in self._tasks:
            harness = self._harness(language_model, reference, task, progress)
            results = self._run(harness, language_model, reference, task, chosen, progress)
            with faults_of(reference, language_model.label):
                own_samples = samples_in(results, task["tasks"])
            facts = {
                "chat_template": self._chat,
                "decoding": self.decoding,
                "batch_size": self.batch_size,
                "batch_used": None if isinstance(language_model, Served) else harness.batch_size,
                "backend": language_model.backend if isinstance(language_model, Served) else TRANSFORMERS,
                "seed": self.seed,
                "lm_eval": version("lm_eval"),
            }
            rows += [each | facts for each in rows_of(results, task["tasks"], own_samples)]
            samples += own_samples
        model = {"model": language_model.label}
        table = pd.DataFrame(rows).assign(**model, run_dtype=language_model.run_dtype)[COLUMNS]
        return Scored(table, [model | each for each in samples])

    def answered(
        self, language_model: LanguageModel, name: str, places: Sequence[int], progress: Progress = silent
    ) -> list[dict[str, Any]]:
        """Return what lm-eval logs of some problems of one task, in order, behind the task's first filter."""
        logged: list[dict[str, Any]] = self.part(language_model, name, places, progress)["samples"][name]
        first = [each for each in logged if each["filter"] == logged[0]["filter"]]
        return sorted(first, key=lambda each: each["doc_id"])

    def part(
        self, language_model: LanguageModel, name: str, places: Sequence[int], progress: Progress = silent
    ) -> dict[str, Any]:
        """Return lm-eval's results of some problems of one task, with what it logs of each."""
        reference, task = next((reference, task) for reference, task in self._tasks if name in task["tasks"])
        alone, chosen = {"tasks": {name: task["tasks"][name]}}, {"samples": {name: list(places)}}
        harness = self._harness(language_model, name, task, progress)
        with faults_of(reference, language_model.label):
            self._check_room(harness, language_model, name, alone, chosen)
        return self._run(harness, language_model, reference, alone, chosen, progress)

    def task(self, name: str) -> Any:
        """Return lm-eval's task of a name."""
        return next(task["tasks"][name] for _, task in self._tasks if name in task["tasks"])

    def count(self, name: str) -> int:
        """Return how many problems of a task are scored."""
        problems = len(self.task(name).eval_docs)
        return min(problems, self._limit or problems)

    def names_of(self, reference: str) -> list[str]:
        """Return the names of the tasks that a reference stands for: of a group its members, of a name itself."""
        return next((list(task["tasks"]) for own, task in self._tasks if own == reference), [reference])

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
            total += weight * (value if self.higher_is_better(name, metric) else -value)
        return float(total / sum(weights.values()))

    def higher_is_better(self, name: str, metric: str) -> bool:
        """Whether of a task's metric more is better."""
        return bool(self.task(name).higher_is_better().get(metric, True))

    def _harness(self, language_model: Model, reference: str, task: Any, progress: Progress) -> Any:
        """Return lm-eval's view of a model; raises InputError where the task is of what it does not see or read."""
        label, stage = language_model.label, _stage(language_model, reference)
        of_images = any(each.OUTPUT_TYPE == CLASSIFY_IMAGE for each in task["tasks"].values())
        if of_images != isinstance(language_model, ImageModel):
            asks, given = ("images", "texts")[:: 1 if of_images else -1]
            title = "served by vLLM" if isinstance(language_model, Served) else language_model.kind.title
            raise InputError(f"{stage}: a task of {asks}, and {label} is {title}; give it one of {given}")
        if isinstance(language_model, Served):
            return language_model.lm
        if not isinstance(language_model, ImageModel):
            how: dict[str, Any] = {"decoding": self.decoding, "chat_template": self._chat}
            return Harness(language_model, self.batch_size, stage, progress, **how)
        if self._chat:
            raise InputError(f"{label}: sees images, for which there is no chat template; score it without one")
        return ImageHarness(language_model, self.batch_size, stage, progress)

    def _seeded(self, task: Any) -> None:
        for each in task["tasks"].values():  # of which every building of problems draws
            each.set_fewshot_seed(seed=self.seed)

    def _check_room(
        self, harness: Any, language_model: Model, reference: str, task: Any, chosen: Mapping[str, Any]
    ) -> None:
        """Raise an InputError where problems do not fit; before the first of any task is asked."""
        self._seeded(task)
        chat = {"apply_chat_template": self._chat, "fewshot_as_multiturn": self._chat}
        for name, each in task["tasks"].items():
            if getattr(each, "MULTIMODAL", False):  # which lm-eval refuses, and says why
                continue
            each.build_all_requests(
                limit=chosen.get("limit"),
                samples=chosen.get("samples", {}).get(name),
                chat_template=getattr(harness, "apply_chat_template", None) if self._chat else None,
                **chat,
            )
            if isinstance(harness, ImageHarness):
                harness.check_room(each.instances)
            else:
                check_room(harness, _stage(language_model, reference), each.instances)

    def _run(
        self,
        harness: Any,
        language_model: Model,
        reference: str,
        task: Any,
        chosen: Mapping[str, Any],
        progress: Progress,
    ) -> dict[str, Any]:
        self._seeded(task)
        devices = [] if language_model.device.type == CPU else [language_model.device]
        with (
            faults_of(reference, language_model.label),
            _reporting_code(_stage(language_model, reference), progress),
            torch.random.fork_rng(devices),  # others draw from the same generators
        ):
            torch.manual_seed(self.seed)
            return evaluator.evaluate(
                harness,
                task,
                **chosen,
                bootstrap_iters=0,
                apply_chat_template=self._chat,
                fewshot_as_multiturn=self._chat,
                confirm_run_unsafe_code=True,  # the task was checked when it was loaded
            )


def _stage(language_model: Model, reference: str) -> str:
    name, _ = task_data(reference)
    return f"{language_model.label} on {Path(name).name.removesuffix('.yaml')}"


@contextmanager
def _reporting_code(task: str, progress: Progress) -> Iterator[None]:
    def report(stage: str, done: float, total: float, unit: str = "") -> None:
        progress(f"{task}, {stage}", done, total, unit)

    token = code_progress.set(report)
    try:
        yield
    finally:
        code_progress.reset(token)
