"""Move from the base towards the models' mean as far as their changes agree."""

from __future__ import annotations

from itertools import combinations

from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block
from nmerge_core.merging.compute.inner_products import cosines
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.values import Flag

_SINGULAR = 1e-6


def prepare(context: Context, values: Values) -> Prepared:
    """Find the angles between the changes in each tensor, where they are the whole tensor's."""
    return Prepared(None if values.shared["filter_wise"] else context.inner_products())


@method(
    "model_stock",
    title="Model Stock",
    paper="Jang et al., ECCV 2024",
    summary="Move from the base towards the mean of the models, the further the more their changes agree.",
    parameters=[Flag(name="filter_wise", help="A ratio for each neuron (row) instead of one for a whole tensor.")],
    prepare=prepare,
    fewest=2,
    passes=lambda values: 1 if values.shared["filter_wise"] else 2,
)
def merge(block: Block, values: Values, prepared: Prepared) -> torch.Tensor:
    """Return r · mean τ_t with r = T cos θ / (1 + (T − 1) cos θ), cos θ the mean cosine between two models' changes.

    r = 0 where the denominator is below 1e-6. Cosines of small changes are exact, where mergekit takes them for smaller
    than they are once the product of two lengths is below 1e-6.
    """
    count = len(block.deltas)
    pairs = list(combinations(range(count), 2))
    if prepared.data is None:
        lengths = block.deltas.norm(dim=2)  # (T, rows)
        units = block.deltas / torch.where(lengths == 0, 1.0, lengths)[..., None]
        cosine = torch.stack([(units[one] * units[other]).sum(1).clamp(-1, 1) for one, other in pairs]).mean(0)
    else:
        between = cosines(prepared.data[block.name][1:, 1:])
        cosine = block.base.new_tensor([sum(between[one, other] for one, other in pairs) / len(pairs)])
    denominator = 1 + (count - 1) * cosine  # (rows,) or (1,)
    ratio = torch.where(denominator.abs() < _SINGULAR, 0.0, count * cosine / denominator)
    return block.deltas.mean(0) * ratio[:, None]
