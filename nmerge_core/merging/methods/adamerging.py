"""Coefficients per model, or per model and layer, that make the merge sure of its predictions on unlabelled texts."""

from __future__ import annotations

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.compute.primitives import weighted_sum
from nmerge_core.merging.plan.coefficient_search import (
    MODEL,
    candidate_of,
    check_coefficients,
    found_coefficients,
    load_texts,
    searches,
)
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.plan.trail import trail_of
from nmerge_core.merging.recipe.prepared import Prepared, Result
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.shared_parameters import (
    CALIBRATION,
    CATEGORY,
    COEFFICIENTS,
    LAYER_COEFFICIENTS,
    SAMPLES,
    SCALES,
)
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.values import Choice, Number

_START = 0.3  # λ before the first step (§4.1)


def check(context: Context, values: Values) -> None:
    """Check coefficients that a recipe brings, or that it names texts to learn them on."""
    check_coefficients(context, values, list(dict.fromkeys(_parts(context, values).values())))
    if searches(values):
        context.check_calibration(values, context.task_categories(values))


def prepare(context: Context, values: Values) -> Prepared:
    """Learn λ by Adam on Σ_t of the mean entropy of the next token's distribution over texts of task t (Eq. 4).

    A language model's classes are its vocabulary, and each token of a text is a prediction. All texts are seen at every
    step, where the authors draw 16 anew; they clamp λ to [0, 1] in use, here it is put back there after a step.
    """
    from nmerge_core.merging.plan.learning import Entropy, learn

    if not searches(values):
        return found_coefficients(context, values.shared["coefficients"])
    part_of = _parts(context, values)
    parts = list(dict.fromkeys(part_of.values()))
    batches = load_texts(context, values, list(dict.fromkeys(context.task_categories(values))))
    groups = {name: parts.index(part) for name, part in part_of.items()}
    steps = values.shared["steps"]
    start = torch.full((len(parts), len(context.stream.models)), _START, dtype=torch.float64)
    with trail_of(context) as trail:
        learnt, history = learn(
            Entropy(candidate_of(context, exact=True), groups, batches),
            start,
            steps=steps,
            rate=values.shared["learning_rate"],
            trail=trail,
            progress=lambda done: context.progress("Learning coefficients", done, steps, "steps"),
        )
    return found_coefficients(context, dict(zip(parts, learnt, strict=True)), history=history)


def _parts(context: Context, values: Values) -> dict[str, str]:
    """Name the part of each tensor."""
    architecture = context.stream.donor.architecture
    return {name: _part(values, architecture.layer_of(name), architecture.submodule(name)) for name in context.names}


def _part(values: Values, layer: int | None, submodule: str) -> str:
    """Name the part whose coefficients a tensor has: the model, its layer, or, outside the layers, what it is."""
    if values.shared["granularity"] == "task":
        return MODEL
    return submodule if layer is None else str(layer)


@method(
    "adamerging",
    title="AdaMerging",
    paper="Yang et al., ICLR 2024",
    summary="Learn how much of each model every layer takes, so that the merge is sure of what comes next in a text.",
    parameters=[
        CALIBRATION,
        CATEGORY,
        SAMPLES.with_(default=16, help="Unlabelled texts per task, all of them read at every step."),
        Choice(
            name="granularity",
            default="layer",
            help="One coefficient per model and layer (layer-wise), or per model alone (task-wise).",
            choices=("layer", "task"),
        ),
        Number(
            name="steps",
            default=500,
            help="Steps of Adam; each reads every model, and its changes once more per batch of texts.",
            low=1,
            high=1000,
            step=1,
            whole=True,
            open_end=True,
            unit="steps",
        ),
        Number(
            name="learning_rate",
            default=1e-3,
            help="Learning rate of Adam.",
            low=0,
            high=0.1,
            step=0.001,
            above_low=True,
            open_end=True,
        ),
        COEFFICIENTS,
    ],
    results=[
        SCALES,
        LAYER_COEFFICIENTS,
        Result("history", "Entropy of the predictions at each step, in nats", "history"),
    ],
    decides=lambda place, values, prepared: prepared.data[_part(values, place.layer, place.submodule)],
    check=check,
    prepare=prepare,
    # The weights are merged, and each batch (of a few texts, one at the least for every task) reads the changes again.
    passes=lambda values: 1 + searches(values) * values.shared["steps"] * (1 + len(values.each["category"])),
    searches=searches,
)
def merge(block: Block, values: Values, prepared: Prepared) -> torch.Tensor:
    """Return Σ λ_t τ_t with the λ of the block's layer, or, outside the layers, of embeddings, norm and head.

    The authors' code has a λ for every tensor of its vision models; the paper's "layer" (Eq. 3) is a layer here.
    """
    return weighted_sum(block.deltas, prepared.data[_part(values, block.layer, block.submodule)])
