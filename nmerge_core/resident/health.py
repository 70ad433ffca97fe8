"""Why a merge went bad: how far it went from its base, what it kept of each model, and where models contradict."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import pandas as pd
from torch import Tensor

from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.checkpoints.compatibility import compare_family
from nmerge_core.checkpoints.matching import as_family
from nmerge_core.checkpoints.opening import open_checkpoint
from nmerge_core.errors import InputError
from nmerge_core.merging.compute.stream import Rows, Stream, all_rows
from nmerge_core.parallel import in_order
from nmerge_core.progress import Progress, silent
from nmerge_core.resident.change import MergeSums, ModelSums, merge_sums, model_sums
from nmerge_core.resident.live import LiveMerge

Place = tuple[int, str]  # a layer and its part, attention or mlp


@dataclass(frozen=True)
class Changes:
    """How far a merge and its models are from their base, per layer and part of it (attention, mlp).

    Attributes:
        layers: columns layer, part, norm (‖τ‖₂ of the merge), opposed (share of the entries that several models
            changed in which they disagree about the sign; NaN where there are none), chance (the same, were signs
            tossed), cancelled (share of what all models changed that is lost where they are added up:
            1 − ‖Σ τ_t‖₁ / Σ ‖τ_t‖₁; NaN where none changed any).
        models: columns layer, part, model (its place in the recipe), norm (‖τ_t‖₂), kept (⟨τ, τ_t⟩ / ‖τ_t‖₂²: 1 where
            all of it is in the merge, 0 where nothing is, negative where the merge goes against it; NaN where τ_t = 0).
    """

    layers: pd.DataFrame
    models: pd.DataFrame


def changes(live: LiveMerge, base: str | None = None, progress: Progress = silent) -> Changes:
    """Measure what a merge and its models changed in the weights of their layers, block by block.

    Embeddings and head, which are of no layer, are left out. What is of the models alone is found once for a family.

    Args:
        live: the merge, as it last followed a recipe.
        base: the model that changes are measured from where the recipe names none.
        progress: told of blocks.

    Raises:
        InputError: there is no base, or it does not fit the models.
    """
    origin, known = _origin(live.family.opened.stream, base), live.family.measured
    architecture = origin.stream.donor.architecture
    layer_of = {name: architecture.layer_of(name) for name in live.family.names}
    rows = all_rows(origin.stream, [name for name, layer in layer_of.items() if layer is not None])

    def work(each: Rows) -> tuple[ModelSums, MergeSums]:
        start, deltas = origin.load(each)
        key = (origin.base.reference, each)
        if key not in known:
            known[key] = model_sums(deltas)
        return known[key], merge_sums(live.rows(each).float().flatten() - start, deltas)

    of_models, of_merge = defaultdict[Place, list[ModelSums]](list), defaultdict[Place, list[MergeSums]](list)
    for done, (each, (models, merge)) in enumerate(zip(rows, in_order(work, rows), strict=True)):
        progress("Measuring the change", done, len(rows), "blocks")
        place = (layer_of[each.name] or 0, architecture.submodule(each.name))
        of_models[place].append(models)
        of_merge[place].append(merge)
    return _tables({place: (reduce(add, of_models[place]), reduce(add, of_merge[place])) for place in sorted(of_merge)})


@dataclass(frozen=True)
class _Origin:
    """What changes are measured from: the stream's own base, or a model that lies beside its weights."""

    base: Checkpoint
    stream: Stream

    def load(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return the base's entries of a block, (n,), and what each model changed in them, (T, n)."""
        block = self.stream.load(rows)
        if self.stream.differences:
            return block.base.flatten(), block.deltas.flatten(1)
        start = self.stream.beside(block, self.base)
        return start.flatten(), block.deltas.sub_(start).flatten(1)


def _origin(stream: Stream, base: str | None) -> _Origin:
    if stream.base:
        return _Origin(stream.base, replace(stream, differences=True))
    if base is None:
        raise InputError("the recipe names no base_model to measure changes from; name the one its models come from")
    _, opened = as_family(stream.donor, [open_checkpoint(base)])
    against, _ = compare_family([opened, stream.donor])
    if against:
        raise InputError(f"{base}: changes cannot be measured from it: {'; '.join(against)}")
    return _Origin(opened, replace(stream, differences=False))


def _tables(sums: Mapping[Place, tuple[ModelSums, MergeSums]]) -> Changes:
    layers, models = [], []
    for (layer, part), (of_models, of_merge) in sums.items():
        place = {"layer": layer, "part": part}
        layers.append(
            place
            | {
                "norm": math.sqrt(of_merge.square),
                "opposed": _share(of_models.opposed, of_models.shared),
                "chance": _share(of_models.chance, of_models.shared),
                "cancelled": _share(max(0.0, of_models.absolute - of_models.summed), of_models.absolute),
            }
        )
        for model, (square, product) in enumerate(
            zip(of_models.squares.tolist(), of_merge.products.tolist(), strict=True)
        ):
            models.append(place | {"model": model, "norm": math.sqrt(square), "kept": _share(product, square)})
    return Changes(pd.DataFrame(layers), pd.DataFrame(models))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
