"""Drop changes at random and rescale the rest, then sum or elect."""

import torch

from nmerge_core.merging.block import Block
from nmerge_core.merging.parameters import DENSITY, LAMBDA, NORMALIZE, RESCALE, WEIGHT, with_default
from nmerge_core.merging.primitives import drop_mask, elected_sum, total_weight, weighted_sum
from nmerge_core.merging.registry import Values, method

_PAPER = "Yu et al., ICML 2024"
_PARAMETERS = [WEIGHT, with_default(DENSITY, 0.4), LAMBDA, RESCALE, NORMALIZE]


def drop(block: Block, values: Values) -> torch.Tensor:
    """Keep each entry with probability `density`, divided by the density if `rescale`: exactly 1/(1 − p)."""
    first = block.start * (block.deltas.shape[-1] if block.neuronal else 1)
    kept = torch.empty_like(block.deltas)
    for model, (delta, density) in enumerate(zip(block.deltas, values.each["density"], strict=True)):
        if density == 1:
            kept[model] = delta
            continue
        mask = drop_mask(delta.shape, first, density, seed=values.shared["seed"], model=model, name=block.name)
        scale = 1 / density if values.shared["rescale"] else 1.0
        torch.mul(delta, mask.to(delta.device), out=kept[model]).mul_(scale)
    return kept


@method(
    "dare_linear",
    title="DARE",
    paper=_PAPER,
    summary="Drop most of each model's changes at random, rescale the rest, and add them up.",
    parameters=_PARAMETERS,
)
def merge_linear(block: Block, values: Values, facts: None) -> torch.Tensor:
    """Return λ Σ w_t of the dropped and rescaled deltas."""
    weights = values.each["weight"]
    scale = values.shared["lambda"] / (total_weight(weights) if values.shared["normalize"] else 1.0)
    return weighted_sum(drop(block, values), weights) * scale


@method(
    "dare_ties",
    title="DARE + TIES",
    paper=_PAPER,
    summary="Drop at random and rescale, then keep only what agrees with the elected sign.",
    parameters=_PARAMETERS,
)
def merge_ties(block: Block, values: Values, facts: None) -> torch.Tensor:
    """Return λ times the elected sum of the dropped and rescaled deltas, their mean if `normalize`."""
    return elected_sum(drop(block, values), values.each["weight"], values.shared["normalize"]) * values.shared["lambda"]
