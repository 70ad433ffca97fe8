"""How far tuning went: the length of each fine-tune's change against the base's weights, by part of the model."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from nmerge_core.checkpoints import Checkpoint
from nmerge_core.lazy import torch
from nmerge_core.progress import Progress, silent

_BLOCK = 1 << 22  # numbers read at a time
POINT = "vectors"  # 1-D tensors: NeuroMerging's point parameters
PARTS = ("mlp", "attention", "embedding", "other matrices", POINT)


def steps(base: str, models: Mapping[str, str], progress: Progress = silent) -> pd.DataFrame:
    """Measure ‖τ‖ of each fine-tune and ‖θ0‖ of the base, in float64.

    Args:
        base: the base.
        models: the fine-tunes by label.
        progress: told of tensors.

    Returns:
        Of the tensors that all of them have in the base's shape: model, part (of `PARTS`), parameters, change (‖τ‖₂),
        weight (‖θ0‖₂).

    Raises:
        InputError: a model cannot be opened, or is not of the base's shape.
    """
    from nmerge_core.similarity.blocks import open_alike  # which imports torch

    opened = open_alike(base, list(models.values()))
    origin = opened[0]
    sizes, weights = defaultdict[str, int](int), defaultdict[str, float](float)
    changes = {label: defaultdict[str, float](float) for label in models}
    for done, name in enumerate(origin.tensors):
        progress("Measuring the steps of tuning", done, len(origin.tensors), "tensors")
        shape = origin.tensors[name].shape
        if any(name not in each.tensors or each.tensors[name].shape != shape for each in opened):
            continue  # rows of tokens that were added, say
        part = _part(origin, name)
        sizes[part] += origin.tensors[name].elements
        for start, *tuned in _blocks(opened, name):
            weights[part] += float((start * start).sum())
            for label, each in zip(models, tuned, strict=True):
                changes[label][part] += float((each - start).square().sum())
    rows = [
        (label, part, sizes[part], math.sqrt(changes[label][part]), math.sqrt(weights[part]))
        for label in models
        for part in PARTS
        if sizes[part]
    ]
    return pd.DataFrame(rows, columns=["model", "part", "parameters", "change", "weight"])


def _part(checkpoint: Checkpoint, name: str) -> str:
    architecture = checkpoint.architecture
    if not architecture.matrix(name).neuronal:
        return POINT
    submodule = architecture.submodule(name)
    return submodule if submodule in PARTS else "other matrices"


def _blocks(opened: Sequence[Checkpoint], name: str) -> Iterator[list[torch.Tensor]]:
    matrix = opened[0].architecture.matrix(name)
    step = max(1, _BLOCK // matrix.columns)
    for start in range(0, matrix.rows, step):
        stop = min(start + step, matrix.rows)
        yield [each.read_matrix(name, matrix, start, stop).double() for each in opened]
