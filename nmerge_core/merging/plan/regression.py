"""What methods have in common that merge linear layers by regression: from Gram matrices to a merge, and its cost."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

from nmerge_core.architecture.matrices import of_experts
from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Place
from nmerge_core.merging.compute.regression import Recent, System, always_regular, system
from nmerge_core.merging.compute.stream import Stream
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.plan.measured import prepared_by, shared_grams
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import Needs
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.values import Number

if TYPE_CHECKING:
    from nmerge_core.calibration import Statistics

SCALE = Number(
    name="scale",
    default=0.9,
    help="Factor of the Gram matrices' off-diagonal entries; 1: plain regression.",
    low=0,
    high=1,
    step=0.05,
)


def is_regressed(place: Place, values: Values) -> bool:
    """Tell whether a tensor may be merged by a Gram matrix: a matrix of a layer that is none of experts.

    Its block is then the whole, as a few rows at a time would read the Gram matrices for each few.
    """
    return place.neuronal and place.layer is not None and not of_experts(place.name)


def _read_system(
    found: Sequence[Statistics], device: str, scale: float, gram: str, weights: tuple[float, ...]
) -> System:
    # Divided by the tokens, so that a task with longer texts counts no more.
    inputs = found[0].tensors.info(gram).rows
    read = torch.empty(len(found), inputs, inputs, dtype=torch.float64, device=device)
    for matrix, own in zip(read, found, strict=True):
        matrix.copy_(own.tensors.read(gram)).div_(own.tokens[gram])
    return system(read, weights, scale)


def _silent(found: Sequence[Statistics], gram: str, weights: tuple[float, ...]) -> int:
    """Count the inputs that are 0 in all texts of the models that count."""
    squares = sum(weight * own.tensors.read(gram).diagonal() for own, weight in zip(found, weights, strict=True))
    return int((torch.as_tensor(squares) <= 0).sum())


def prepared_regression(context: Context, values: Values, found: Sequence[Statistics]) -> Prepared:
    """Return facts of each model's Gram matrices, with the layers whose texts leave directions of the input unseen."""
    make = partial(_read_system, found, context.stream.device, values.shared["scale"])
    systems, grams = Recent(make), shared_grams(found)
    warnings: dict[tuple, str] = {}
    for done, name in enumerate(context.names):
        context.progress("Input correlations", done, len(context.names), "tensors")
        if name not in grams:
            continue
        weights = context.values_of(name, values).each["weight"]
        if (grams[name], weights) not in warnings:
            inputs = found[0].tensors.info(grams[name]).rows
            if always_regular(values.shared["scale"], inputs):
                unseen = _silent(found, grams[name], weights)
            else:
                unseen = systems(grams[name], weights).unseen
            warnings[grams[name], weights] = (
                f"{name}: its texts do not tell in {unseen:,} directions of its input; there it is the average"
                if unseen
                else ""
            )
    # Factored again while merging, where a block has one thread, so that no bit depends on the number of threads.
    shown = [warning for warning in warnings.values() if warning]
    return prepared_by(context, values, found, (Recent(make), grams), shown + _averaged(context, grams))


def _averaged(context: Context, grams: Collection[str]) -> list[str]:
    """Say, in no or one sentence, which matrices in layers have no Gram matrix."""
    architecture = context.stream.donor.architecture
    inside = [name for name in context.names if architecture.layer_of(name) is not None]
    inside = [name for name in inside if architecture.matrix(name).neuronal]
    averaged = [name for name in inside if name not in grams]
    said = f"{len(averaged):,} of {len(inside):,} matrices in layers are averaged plainly"
    why = "what routed experts and routers read is not measured"
    return [f"{said}, {averaged[0]} the first: {why}"] if averaged else []


def needs(stream: Stream, values: Values) -> Needs:
    """Count, over the layers' matrices (out, in), in memory: T + 2 of the largest float64 in² and a float32 one.

    Operations: T products and two triangular solves of each matrix, a factorisation (in³ / 3) of each input, of which
    a layer has four, and another one where it tells what the texts leave open.
    """
    donor, models = stream.donor, len(stream.models)
    inside = [each.shape for name, each in donor.tensors.items() if donor.architecture.layer_of(name) is not None]
    matrices = [shape for shape in inside if len(shape) > 1]
    largest, d_model = max(shape[-1] for shape in matrices), donor.architecture.d_model
    solved = sum(shape[0] * shape[-1] ** 2 * (2 * models + 2) for shape in matrices)
    factorisations = 1 if always_regular(values.shared["scale"], largest) else 2
    factored = len(donor.architecture.layers) * factorisations / 3 * (largest**3 + 3 * d_model**3)
    return Needs(largest**2 * (8 * (models + 2) + 4), solved + factored)
