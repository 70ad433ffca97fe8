"""Scores of models on tasks, each loaded, or served, in turn."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nmerge_core.checkpoints import labels
from nmerge_core.errors import InputError
from nmerge_core.evaluation.scores import Evaluator, Model
from nmerge_core.evaluation.served import check_served, served
from nmerge_core.kinds import SCORED
from nmerge_core.loading import load_model
from nmerge_core.machine import release_memory
from nmerge_core.parameters.settings import BACKEND, DEVICE, RUN_DTYPE, VLLM
from nmerge_core.progress import Progress, silent


def evaluate(
    models: Sequence[str],
    tasks: Sequence[str],
    *,
    device: str = DEVICE.default,
    run_dtype: str = RUN_DTYPE.default,
    backend: str = BACKEND.default,
    progress: Progress = silent,
    samples: Path | None = None,
    **conditions: Any,
) -> pd.DataFrame:
    """Score models, one after the other, on tasks; see `Evaluator` and `load_model` for the arguments.

    With `backend` "vllm" written checkpoints are served by it (`check_served` says what that takes). `samples` is a
    file that gets what was asked and answered, problem by problem, as JSON Lines.
    """
    if not models:
        raise InputError("models: expected at least one model, found none")
    evaluator_ = Evaluator(tasks, **conditions)
    BACKEND.check(backend, BACKEND.name)
    if backend == VLLM:
        check_served(list(models), evaluator_.decoding, device)
    found = []
    for reference, label in zip(models, labels(models), strict=True):
        if backend == VLLM:
            where = {"device": device, "run_dtype": run_dtype}
            subject: Model = served(reference, label, **where, batch_size=evaluator_.batch_size, seed=evaluator_.seed)
            release_memory()  # that of the engine before, which is kept until nothing refers to it
        else:
            subject = dataclasses.replace(load_model(reference, device, run_dtype, kinds=SCORED), label=label)
        found.append(evaluator_.scored(subject, progress))
    if samples is not None:
        text = "".join(scored.lines for scored in found)
        samples.write_text(text, encoding="utf-8", errors="backslashreplace")
    return pd.concat([scored.table for scored in found], ignore_index=True)
