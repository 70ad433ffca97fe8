"""Weights that are measured have to be finite: a NaN would stand for a neuron that is zero, or did not change."""

from math import isfinite
from typing import TYPE_CHECKING

from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def finite(checkpoint: Checkpoint, name: str, values: "Tensor") -> "Tensor":
    """Return entries of a tensor, float32 or float64, as they are; raises InputError where one is NaN or infinite."""
    if isfinite(values.sum().item()):  # a sum of finite weights is finite: no mask is made of them
        return values
    raise InputError(
        f"{checkpoint.reference}, tensor {name}: holds NaN or infinite entries; expected finite weights. Fetch or "
        "train this model again, or leave it out"
    )
