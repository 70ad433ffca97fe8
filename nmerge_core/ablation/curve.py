"""The knock-out curve: growing shares of a category's neurons off, or kept alone, against random ones."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nmerge_core.ablation.conditions import (
    INTACT,
    RANDOM,
    Neurons,
    everyone,
    others,
    plan,
)
from nmerge_core.ablation.effect import Compared, effects_table
from nmerge_core.ablation.groups import open_groups
from nmerge_core.ablation.measuring import LOSS, Readings, measure, open_scale
from nmerge_core.errors import InputError
from nmerge_core.kinds import SCORED
from nmerge_core.loading import load_model
from nmerge_core.number_format import AUTO
from nmerge_core.progress import Progress, silent

CURVE, EFFECTS = "knockout.csv", "effects.csv"  # what is written
COLUMNS = ["group", "proportion", "neurons", "seed", "metric", "value", "run_dtype"]


def knockout(
    model: str,
    neurons: str,
    category: str,
    layers: Sequence[int] | None,
    out: Path,
    *,
    task: str | None = None,
    loss: str | None = None,
    lists: Mapping[str, object] | None = None,
    proportions: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 1.0),
    keep_only: bool = False,
    repeats: int = 3,
    seed: int = 0,
    limit: int | None = None,
    run_code: bool = False,
    allow_task_code: bool = False,
    device: str = "auto",
    run_dtype: str = AUTO,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Score a model with growing shares of a category's neurons off, and with as many random ones off.

    In each layer the share p of a category of n neurons is the first round(p·n) of a seeded shuffle, so that a larger
    share contains the smaller ones; once per repeat, but for what is the same each time, as the whole category is. The
    control takes the same number in the same layer from a shuffle of all its neurons, those of the category included
    (as the paper's random control), once per repeat.

    Args:
        model: folder or Hub id of the model.
        neurons: the classification folder that says which neurons are the category's; of this model or of its base.
        category: the category to knock out, or the name of a list.
        layers: the layers whose neurons go, from 0; all by default.
        out: folder that gets knockout.csv, effects.csv (for each share, by how much the category's neurons matter more
            than random ones, `effect.effects_table`) and measured.jsonl, from which
            the same call goes on where it was stopped.
        task: the task to score, as in `evaluation.tasks.load_task`.
        loss: in place of a task, a corpus whose held-out texts are read (`held_out.held_out`).
        lists: lists of neurons by name, as recipes have them.
        proportions: shares of the category's neurons, in (0, 1].
        keep_only: switch off all neurons of these layers but the share of the category, or as many random ones.
        repeats: draws of each share, by the seeds seed, seed + 1, ….
        seed: the first seed.
        limit: the first this many problems of the task, or texts of each category, only.
        run_code: allow a task that runs what the model writes.
        allow_task_code: allow a task that brings code of its own.
        device: as in `load_model`.
        run_dtype: as in `load_model`.
        progress: counts measurements.

    Returns:
        Columns group (the category or "random"), proportion, neurons (how many are off, or kept), seed, metric, value,
        run_dtype; per measurement a row for each metric, the primary one first: by loss that on the category's own
        texts. Both groups begin with proportion 0: the intact model or, where they are kept, nothing of the layers; the
        intact model is then a group of its own.

    Raises:
        InputError: no such category, layer or task; the category has no neuron there; a proportion, repeats or seed out
            of range; the folder is of another kind of model.
    """
    if category in (RANDOM, INTACT):
        raise InputError(f"category '{category}': a knock-out calls a group of its own so; give it another name")
    groups = open_groups(model, neurons, layers, lists)
    own, pool = groups.named([category])[category], everyone(groups.widths)
    seeds, shares = range(seed, seed + repeats), sorted(set(proportions))
    drawn = list(plan(own, groups.widths, category, shares, seeds))

    def off(neurons: Neurons) -> Neurons:
        return others(pool, neurons) if keep_only else neurons

    conditions: list[Neurons] = [{}, off({}), *(off(draw.neurons) for draw in drawn)]
    scale = open_scale(task, loss, limit, run_code=run_code, allow_task_code=allow_task_code)
    language_model = load_model(model, device, run_dtype, kinds=SCORED)
    readings = measure(language_model, scale, conditions, out, progress)
    intact, none, *found = (own_first(each, category) for each in readings)
    rows = _rows(INTACT, 1.0, sum(map(len, pool.values())), seed, intact) if keep_only else []
    for group, first in ((category, seed), *((RANDOM, control) for control in seeds)):
        rows += _rows(group, 0.0, 0, first, none)
    by_share = defaultdict[tuple[str, float], list[Readings]](list)
    for draw, measured in zip(drawn, found, strict=True):
        rows += _rows(draw.group, draw.proportion, draw.size, draw.seed, measured)
        by_share[draw.group, draw.proportion].append(measured)
    table = pd.DataFrame(rows).assign(run_dtype=language_model.run_dtype)[COLUMNS]
    table.to_csv(out / CURVE, index=False)

    number = {draw.proportion: draw.size for draw in drawn}
    compared = [
        Compared({"proportion": p, "neurons": number[p]}, by_share[category, p], by_share[RANDOM, p]) for p in shares
    ]
    effects_table(intact, compared, kept=keep_only).to_csv(out / EFFECTS, index=False)
    return table


def own_first(readings: Readings, category: str) -> Readings:
    """Return what was read with the loss on a category's own texts first, where there is such."""
    own = f"{category}/{LOSS}"
    return {own: readings[own]} | readings if own in readings else readings


def _rows(group: str, proportion: float, neurons: int, seed: int, readings: Readings) -> list[dict[str, Any]]:
    facts = {"group": group, "proportion": proportion, "neurons": neurons, "seed": seed}
    return [facts | {"metric": metric, "value": reading.value} for metric, reading in readings.items()]
