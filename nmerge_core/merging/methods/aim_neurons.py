"""Hold back what was merged in the neurons of some categories, as AIM does in input channels."""

from __future__ import annotations

from typing import Any

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block, Place
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.plan.neurons import GENERAL, check_neurons, classified, group_neurons
from nmerge_core.merging.recipe.prepared import Prepared, Result
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.shared_parameters import CORPUS, NEURONS, OMEGA
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.settings import GROUPING, MARGIN, TOP_K
from nmerge_core.parameters.values import Names


def check(context: Context, values: Values) -> None:
    """Check that there are neurons of these categories."""
    check_neurons(context, values, values.shared["categories"], "categories")


def prepare(context: Context, values: Values) -> Prepared:
    """Find the neurons of the categories, per layer."""
    voting = {name: values.shared[name] for name in ("top_k", "margin", "grouping")}
    with classified(context, values) as folder:
        frame = group_neurons(folder, context.stream.donor, None, **voting, lists=None, seed=values.shared["seed"])
    frame = frame.assign(held=frame["category"].isin(values.shared["categories"]))
    layers = {
        int(layer): torch.tensor(each.sort_values("neuron")["held"].to_numpy())
        for layer, each in frame.groupby("layer")
    }
    sizes = frame.groupby("layer")["held"].sum().rename("neurons").reset_index().to_dict("records")
    return Prepared(layers, report={"held": sizes})


def decides(place: Place, values: Values, prepared: Prepared) -> Any:
    """Tell ω and which of a layer's neurons are held back; of a tensor that is no neuron's nothing."""
    if not place.of_neurons or place.layer is None:
        return None
    return values.shared["omega"], prepared.data[place.layer].numpy().tobytes()


@method(
    "aim_neurons",
    title="AIM by neuron category",
    paper="after Activation-Informed Merging, arXiv 2502.02421",
    summary="Take less of what was merged in the neurons of some categories, General's unless others are named.",
    parameters=[
        OMEGA.with_(help="Share ω of the change that these neurons keep; 0 leaves them the base's, 1 as merged."),
        Names(
            name="categories",
            default=(GENERAL,),
            help="Categories whose neurons keep less of the change, as the classification has them.",
        ),
        NEURONS,
        CORPUS.with_(help="Corpus to classify the base with on the way, where no folder is named."),
        TOP_K.with_(default=None, help="Vote again with each neuron's k strongest texts (the folder's own if unset)."),
        MARGIN.with_(default=None, help="Votes m a category must be ahead by (the folder's if unset)."),
        GROUPING,
    ],
    step=True,
    results=[Result("held", "Neurons that keep less of the change, by layer", "table")],
    check=check,
    prepare=prepare,
    decides=decides,
    solves=lambda values: values.shared["neurons"] is None,
)
def merge(block: Block, values: Values, prepared: Prepared) -> torch.Tensor:
    """Return ω Δ_ij of what was merged, Δ, in the rows and columns of the MLP neurons of the categories, else Δ_ij.

    Our own rule: AIM's importance of a channel of the base, with a neuron's category in place of its magnitude.
    """
    if block.neurons is None or block.layer is None:
        return block.change
    held = prepared.data[block.layer][block.neurons]  # broadcasts to (rows, columns)
    return torch.where(held.to(block.change.device), values.shared["omega"] * block.change, block.change)
