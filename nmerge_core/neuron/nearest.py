"""The neurons whose weights point most nearly where one's do."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nmerge_core.architecture import MlpLayer
from nmerge_core.checkpoints import Checkpoint, open_checkpoint
from nmerge_core.checkpoints.neuron_weights import mlp_of, weights_of
from nmerge_core.progress import Progress, silent
from nmerge_core.similarity.blocks import neuron_blocks


def nearest(
    model: str, layer: int, neuron: int, *, count: int = 10, everywhere: bool = False, progress: Progress = silent
) -> pd.DataFrame:
    """Find the neurons of highest cosine with one, of its layer or of all.

    A neuron's vector is its rows of gate and up and its column of down, one after the other; biases are none of it.
    Weights are streamed in blocks of rows and summed in float64.

    Args:
        model: the model, whose weights are read from its files.
        layer: the neuron's layer.
        neuron: the neuron.
        count: how many.
        everywhere: of all layers.
        progress: told of layers.

    Returns:
        layer, neuron, cosine, the highest first; of a vector of zeros there is no cosine, and no row.

    Raises:
        InputError: the model cannot be opened, or has no such neuron.
    """
    checkpoint = open_checkpoint(model)
    mlp = mlp_of(checkpoint, layer, neuron)
    own = _vectors(checkpoint, mlp, neuron)
    length = torch.cat([*own.values()]).norm()
    layers = checkpoint.architecture.layers if everywhere else (mlp,)
    found: list[pd.DataFrame] = []
    for done, each in enumerate(layers):
        progress("Comparing the weights of neurons", done, len(layers), "layers")
        products, squares = _sums(checkpoint, each, own)
        cosines = (products / (squares.sqrt() * length)).clamp(-1, 1).numpy()  # (d_ffn,)
        frame = pd.DataFrame({"layer": each.layer, "neuron": np.arange(each.d_ffn), "cosine": cosines})
        others = frame if each.layer != layer else frame.drop(index=neuron)
        found.append(others.dropna().nlargest(count, "cosine"))
    return pd.concat(found).nlargest(count, "cosine").reset_index(drop=True)


def _vectors(checkpoint: Checkpoint, mlp: MlpLayer, neuron: int) -> dict[str, Tensor]:
    """Return a neuron's vector of each matrix, (d_model,) float64."""
    architecture = checkpoint.architecture
    parts = [part for part in mlp.maps if architecture.matrix(part.tensor).neuronal]
    found = [(part.matrix, weights_of(checkpoint, architecture, part, neuron).double()) for part in parts]
    return {matrix: vector for matrix, vector in found if len(vector)}


def _sums(checkpoint: Checkpoint, mlp: MlpLayer, own: dict[str, Tensor]) -> Sequence[Tensor]:
    """Return the product of each neuron of a layer with a vector, and its own square, (d_ffn,) float64 each."""
    products, squares = torch.zeros(2, mlp.d_ffn, dtype=torch.float64)
    for part in mlp.maps:
        if part.matrix not in own or not checkpoint.architecture.matrix(part.tensor).neuronal:
            continue
        row = 0  # of down: which entries of the vector a block of its rows has
        for neurons, along, (weights,) in neuron_blocks([checkpoint], part):
            vector = own[part.matrix]
            if along == 0:
                vector, row = vector[row : row + len(weights), None], row + len(weights)
            products[neurons] += (weights * vector).sum(along)
            squares[neurons] += (weights * weights).sum(along)
    return products, squares
