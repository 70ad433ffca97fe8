"""Move from the base towards the models' mean as far as their changes agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nmerge_core.checkpoints.raw_bits import RawBits
from nmerge_core.lazy import torch
from nmerge_core.merging.compute.block import Block, Entries
from nmerge_core.merging.compute.entrywise import Entrywise, Rule
from nmerge_core.merging.compute.inner_products import Products, cosines
from nmerge_core.merging.compute.neurons import EVERY, merge_by_factors, products, products_of_rows
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.registry import method
from nmerge_core.merging.recipe.values import Values
from nmerge_core.parameters.values import Flag

_SINGULAR = 1e-6


@dataclass(frozen=True)
class ByNeuron:
    """r · mean τ_t of each weight neuron, r by the angles between the changes of its row; of a vector one r."""

    def merge(self, block: Block) -> torch.Tensor:
        """Return the merged delta of a block, (rows, columns) float32."""
        shares = _shares(products_of_rows(block.deltas).cpu().numpy()).astype(np.float32)  # (rows,)
        each = torch.from_numpy(shares).to(block.deltas.device).unsqueeze(1)
        total = torch.zeros_like(block.base)
        for delta in block.deltas:
            total.add_(delta * each)
        return total

    def merge_entries(self, entries: Entries, merged: RawBits) -> bool:
        """Write merged entries to `merged` (n,); return whether all that was read is finite."""
        sources, length = entries.stored.shape
        found = np.empty((length // entries.columns, sources, sources))
        if not products(entries.stored, True, entries.columns, EVERY, found):
            return False
        factors = np.zeros((len(found), sources), np.float32)
        factors[:, 1:] = _shares(found[:, 1:, 1:])[:, None]
        return bool(merge_by_factors(entries.stored, entries.columns, EVERY, factors, merged))


def _shares(found: Products) -> Products:
    """Return r / T by the scalar products of changes, (…, T, T): (…)."""
    count = found.shape[-1]
    one, other = np.triu_indices(count, 1)
    cosine = cosines(found)[..., one, other].mean(-1)
    denominator = 1 + (count - 1) * cosine
    singular = np.abs(denominator) < _SINGULAR
    shares: Products = np.where(singular, 0.0, cosine / np.where(singular, 1.0, denominator))
    return shares


def prepare(context: Context, values: Values) -> Prepared:
    """Find the share of each change in the merge of each tensor, where it is the whole tensor's."""
    if values.shared["filter_wise"]:
        return Prepared()
    found = context.inner_products()
    return Prepared({name: (float(_shares(own[1:, 1:])),) * (len(own) - 1) for name, own in found.items()})


@method(
    "model_stock",
    title="Model Stock",
    paper="Jang et al., ECCV 2024",
    summary="Move from the base towards the mean of the models, the further the more their changes agree.",
    parameters=[Flag(name="filter_wise", help="A ratio for each neuron (row) instead of one for a whole tensor.")],
    prepare=prepare,
    fewest=2,
    passes=lambda values: 1 if values.shared["filter_wise"] else 2,
    rowwise=True,
    version=2,
)
def rule(name: str, values: Values, prepared: Prepared) -> Rule:
    """Move by r · mean τ_t with r = T cos θ / (1 + (T − 1) cos θ), cos θ the mean cosine between two models' changes.

    r = 0 where the denominator is below 1e-6. Cosines of small changes are exact, where mergekit takes them for smaller
    than they are once the product of two lengths is below 1e-6.
    """
    return ByNeuron() if values.shared["filter_wise"] else Entrywise(prepared.data[name])
