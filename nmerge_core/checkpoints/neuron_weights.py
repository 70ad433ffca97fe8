"""The weights of one neuron, read alone."""

from typing import TYPE_CHECKING

from nmerge_core.architecture import Architecture, MlpLayer, NeuronMap
from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.errors import InputError

if TYPE_CHECKING:
    import torch


def mlp_of(checkpoint: Checkpoint, layer: int, neuron: int) -> MlpLayer:
    """Return the MLP of a layer; raises InputError where the checkpoint has no such neuron."""
    architecture = checkpoint.architecture
    mlp = next((each for each in architecture.layers if each.layer == layer), None)
    if mlp is None or not 0 <= neuron < mlp.d_ffn:
        there = f"layer {layer} has neurons 0 to {mlp.d_ffn - 1}" if mlp else f"there are {architecture.depth} layers"
        raise InputError(f"{checkpoint.reference}: no neuron {neuron} of layer {layer}; {there}")
    return mlp


def weights_of(checkpoint: Checkpoint, architecture: Architecture, part: NeuronMap, neuron: int) -> "torch.Tensor":
    """Return what a tensor has of a neuron, a row, a column or nothing, (n,) in the checkpoint's dtype."""
    import torch

    matrix, index = architecture.matrix(part.tensor), neuron - part.first
    if part.axis == 0:
        row = part.start + index * part.step
        inside = part.start <= row < part.stop
        return checkpoint.read_matrix(part.tensor, matrix, row, row + inside).flatten() if inside else torch.empty(0)
    if not 0 <= index < matrix.columns:
        return torch.empty(0)
    height = part.stop - part.start
    if not checkpoint.as_stored(part.tensor):  # what it is made of cannot be read by columns
        return checkpoint.read_matrix(part.tensor, matrix, part.start, part.stop)[:, index]
    row = part.start // height * matrix.columns + index
    return checkpoint.read_matrix(part.tensor, matrix.across(height), row, row + 1).flatten()
