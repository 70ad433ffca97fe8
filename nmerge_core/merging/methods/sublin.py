"""SubModule Linearity: coefficients per submodule that are solved, not tuned."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block, Place
from nmerge_core.merging.compute.primitives import weighted_sum
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.shared_parameters import (
    CALIBRATION,
    CATEGORY,
    COEFFICIENTS,
    LAYER_COEFFICIENTS,
    SAMPLES,
)
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.settings import TOGETHER


def check(context: Context, values: Values) -> None:
    """Check coefficients that a recipe brings, or that it names a corpus to solve them on."""
    given = values.shared["coefficients"]
    if given is None:
        context.check_calibration(values, context.task_categories(values))
    else:
        _check_given(context, given)


def prepare(context: Context, values: Values) -> Prepared:
    """Solve α for each layer's attention, MLP and, where the context has them, neuron groups."""
    given = values.shared["coefficients"]
    if given is None:
        solved = context.coefficients(values)
        given = {}
        for (layer, part), alphas in solved.values.items():
            given.setdefault(str(layer), {})[part] = list(alphas)
        warnings = list(solved.warnings)
    else:
        warnings = []
    attention = [parts["attention"] for parts in given.values()]
    elsewhere = [fmean(alphas) for alphas in zip(*attention, strict=True)]
    rows = [
        {"layer": int(layer), "part": part, "model": model, "coefficient": alpha}
        for layer, parts in given.items()
        for part, alphas in parts.items()
        for model, alpha in zip(context.labels, alphas, strict=True)
    ]
    return Prepared(
        (given, elsewhere), solved={"coefficients": given}, report={"coefficients": rows, "warnings": warnings}
    )


def _check_given(context: Context, given: Any) -> None:
    """Check that there are coefficients for every part of every layer, a number per model."""
    count = len(context.stream.models)
    layers = {str(mlp.layer) for mlp in context.stream.donor.architecture.layers}
    groups = {layer: set(parts) for layer, parts in (context.groups or {}).items()}
    expected = f"for each of {len(layers)} layers, attention, mlp and neuron groups with {count} numbers each"
    if not isinstance(given, Mapping) or set(given) != layers:
        raise context.wrong("parameters.coefficients", expected, f"layers {list(given) if given else given}")
    for layer, parts in given.items():
        missing = ({"attention", "mlp"} | groups.get(int(layer), set())) - set(parts)
        if missing or any(not isinstance(a, list) or len(a) != count for a in parts.values()):
            raise context.wrong(f"parameters.coefficients.{layer}", expected, parts)


@method(
    "sublin",
    title="SubModule Linearity",
    paper="Dai et al., ICLR 2025",
    summary="Task arithmetic with coefficients for each attention and each MLP, solved from measured outputs.",
    parameters=[CATEGORY, CALIBRATION, SAMPLES, TOGETHER, COEFFICIENTS],
    results=[LAYER_COEFFICIENTS],
    decides=lambda place, values, prepared: coefficients_of(place, *prepared.data),
    check=check,
    prepare=prepare,
    solves=lambda values: values.shared["coefficients"] is None,
)
def merge(block: Block, values: Values, prepared: Prepared) -> torch.Tensor:
    """Return Σ α_t τ_t with the α of the block's group or submodule; elsewhere with the mean α of the attentions.

    The authors' code was not published; what is solved is stated at `linearity.solve`.
    """
    return weighted_sum(block.deltas, coefficients_of(block, *prepared.data))


def coefficients_of(place: Block | Place, solved: Mapping[str, Any], elsewhere: list[float]) -> list[float]:
    """Look up the coefficients that apply to a tensor."""
    if place.layer is None:
        return elsewhere
    return solved[str(place.layer)][place.group or place.submodule]
