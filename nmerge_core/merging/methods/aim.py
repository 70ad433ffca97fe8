"""Hold back what was merged where the base's inputs are large: what it knows in general hangs on these."""

from __future__ import annotations

from typing import Any

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block, Place
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.plan.measured import check_statistics, measured_on, statistics_of
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.shared_parameters import CATEGORY, CORPUS, MEASURED_TEXTS, OMEGA, STATISTICS, TEXTS
from nmerge_core.merging.recipe.values import Values


def check(context: Context, values: Values) -> None:
    """Check that there is something to measure on."""
    check_statistics(context, values, "magnitude")


def prepare(context: Context, values: Values) -> Prepared:
    """Find a_j / max a of the input of each of the base's linear layers, on general text."""
    (found,) = statistics_of(context, values, "magnitude")
    shares = {}
    for name in sorted({*found.of_weights.values()}):
        sums = found.tensors.read(name)  # Σ |x_j|, (inputs,)
        largest = sums.max()
        shares[name] = sums / largest if largest > 0 else sums
    return Prepared((shares, dict(found.of_weights)), report={"statistics": measured_on([found])})


def decides(place: Place, values: Values, prepared: Prepared) -> Any:
    """Tell ω and what is known of a tensor's inputs; of others nothing."""
    return (values.shared["omega"], prepared.digest) if place.name in prepared.data[1] else None


@method(
    "aim",
    title="AIM",
    paper="Activation-Informed Merging, arXiv 2502.02421",
    summary="Take less of what was merged in the input channels that are large in the base on general text.",
    parameters=[
        OMEGA.with_(help="Share ω of the change that the largest input channel keeps; 1 leaves the merge as it is."),
        STATISTICS.with_(
            per_model=False, help="Folder of the base's input magnitudes; collected on the corpus if left out."
        ),
        CORPUS.with_(help="Corpus whose general texts the base's input magnitudes are collected on, if need be."),
        CATEGORY.with_(per_model=False, default="general", help="The corpus category of general texts."),
        TEXTS.with_(help="Texts that the magnitudes are collected on, if need be."),
    ],
    step=True,
    results=[MEASURED_TEXTS],
    check=check,
    prepare=prepare,
    decides=decides,
    solves=lambda values: values.shared["statistics"] is None,
)
def merge(block: Block, values: Values, prepared: Prepared) -> torch.Tensor:
    """Return Δ_ij · (1 − (1 − ω) a_j / max_k a_k) of what was merged, Δ, in a linear layer; all else as it was merged.

    a_j is the mean of |x_j| over the tokens, x the layer's input in the base.
    """
    shares, inputs = prepared.data
    if block.name not in inputs:
        return block.change
    share = shares[inputs[block.name]].to(block.change.device)  # (columns,)
    return block.change * (1 - (1 - values.shared["omega"]) * share)
