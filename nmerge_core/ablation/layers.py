"""Knock-out layer by layer: what each category's neurons of each layer do, against as many random ones of the layer."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from nmerge_core.ablation.conditions import RANDOM, Draw, draws, everyone
from nmerge_core.ablation.curve import EFFECTS
from nmerge_core.ablation.effect import Compared, effects_table
from nmerge_core.ablation.groups import open_groups
from nmerge_core.ablation.measuring import measure, open_scale
from nmerge_core.errors import InputError
from nmerge_core.kinds import SCORED
from nmerge_core.loading import load_model
from nmerge_core.number_format import AUTO
from nmerge_core.progress import Progress, silent


def effects(
    model: str,
    neurons: str,
    out: Path,
    *,
    layers: Sequence[int] | None = None,
    categories: Sequence[str] | None = None,
    task: str | None = None,
    loss: str | None = None,
    lists: Mapping[str, object] | None = None,
    repeats: int = 3,
    seed: int = 0,
    limit: int | None = None,
    run_code: bool = False,
    allow_task_code: bool = False,
    device: str = "auto",
    run_dtype: str = AUTO,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Switch off each category's neurons of one layer at a time, and as many random ones of that layer.

    Args:
        model: folder or Hub id of the model.
        neurons: the classification folder that says which neurons are whose; of this model or of its base.
        out: folder that gets effects.csv and measured.jsonl, from which the same call goes on where it was stopped.
        layers: the layers, from 0; all by default.
        categories: categories, and names of lists; all by default.
        task: the task to score, as in `evaluation.tasks.load_task`.
        loss: in place of a task, a corpus whose held-out texts are read (`held_out.held_out`).
        lists: lists of neurons by name, as recipes have them.
        repeats: random draws for each control, by the seeds seed, seed + 1, ….
        seed: the first seed.
        limit: the first this many problems of the task, or texts of each category, only.
        run_code: allow a task that runs what the model writes.
        allow_task_code: allow a task that brings code of its own.
        device: as in `load_model`.
        run_dtype: as in `load_model`.
        progress: counts measurements.

    Returns:
        Columns layer, category, neurons, then those of `effect.effects_table`; none of a category without a neuron in a
        layer.

    Raises:
        InputError: as `curve.knockout`; or the task's metrics are of all problems together.
    """
    groups = open_groups(model, neurons, layers, lists)
    named = groups.named(categories or list(groups.neurons))
    cells: list[tuple[Draw, list[Draw]]] = []
    for layer, width in groups.widths.items():
        for name, by_layer in named.items():
            if layer in by_layer:
                own = Draw(name, 1.0, seed, {layer: by_layer[layer]})
                pool, seeds = everyone({layer: width}), range(seed, seed + repeats)
                cells.append((own, list(draws(RANDOM, pool, {layer: own.size}, [1.0], seeds))))
    scale = open_scale(task, loss, limit, run_code=run_code, allow_task_code=allow_task_code)
    language_model = load_model(model, device, run_dtype, kinds=SCORED)
    (intact,) = measure(language_model, scale, [{}], out, progress)
    if not any(reading.problems for reading in intact.values()):
        raise InputError(f"task '{task}': its metrics are of all problems together, and of none alone; take another")
    conditions = [draw.neurons for own, random in cells for draw in (own, *random)]
    read, compared = iter(measure(language_model, scale, conditions, out, progress)), []
    for own, random in cells:
        facts = {"layer": next(iter(own.neurons)), "category": own.group, "neurons": own.size}
        compared.append(Compared(facts, [next(read)], [next(read) for _ in random]))
    table = effects_table(intact, compared)
    table.to_csv(out / EFFECTS, index=False)
    return table
