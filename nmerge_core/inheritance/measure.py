"""What a merge and its fine-tunes changed in neurons, read from their weights."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nmerge_core.architecture import Architecture, MlpLayer
from nmerge_core.checkpoints import Checkpoint, labels
from nmerge_core.checkpoints.finite import finite
from nmerge_core.checkpoints.neuron_weights import mlp_of, weights_of
from nmerge_core.inheritance.tables import NeuronChanges, share
from nmerge_core.progress import Progress, silent
from nmerge_core.similarity.blocks import neuron_blocks, open_alike


def inherited(merge: str, base: str, models: Sequence[str], *, progress: Progress = silent) -> pd.DataFrame:
    """Measure what each neuron of a merge kept of what each fine-tune changed in it.

    A neuron's θ is its rows of gate and up, their biases, and its column of down, τ_t = θ_t − θ_0 what a fine-tune
    changed in it and Δ what the merge did. Weights are streamed in blocks of rows and summed in float64.

    Args:
        merge: the merge.
        base: the base model.
        models: the fine-tunes.
        progress: told of layers.

    Returns:
        layer, neuron, model, change (‖τ_t‖₂), kept (⟨Δ, τ_t⟩ / ‖τ_t‖₂²: 1 where all of it is in the merge, 0 where
        nothing is, negative where the merge goes against it; NaN where τ_t = 0), cosine (of Δ and τ_t; NaN where either
        is 0).

    Raises:
        InputError: a model cannot be opened, its neurons are not known, it is not of the base's shape, or a weight is
            NaN or infinite.
    """
    opened = open_alike(base, [*models, merge])
    layers, names, frames = opened[0].architecture.layers, labels(models), []
    for done, layer in enumerate(layers):
        progress("Comparing the changes", done, len(layers), "layers")
        squares, products = (sums.numpy() for sums in _sums(opened, layer))  # (T + 1, d_ffn), the merge last
        for model, square, product in zip(names, squares[:-1], products[:-1], strict=True):
            found = {
                "layer": layer.layer,
                "neuron": np.arange(layer.d_ffn),
                "model": model,
                "change": np.sqrt(square),
                "kept": share(product, square),
                "cosine": share(product, np.sqrt(square * squares[-1])),
            }
            frames.append(pd.DataFrame(found).astype(dict.fromkeys(("change", "kept", "cosine"), np.float32)))
    progress("Comparing the changes", len(layers), len(layers), "layers")
    return pd.concat(frames, ignore_index=True)


def _sums(opened: Sequence[Checkpoint], layer: MlpLayer) -> tuple[Tensor, Tensor]:
    """Return ‖τ‖² of each model but the first, the base, and ⟨Δ, τ⟩ with the last one's Δ, (models, d_ffn) each."""
    squares, products = torch.zeros(2, len(opened) - 1, layer.d_ffn, dtype=torch.float64)
    for part in layer.maps:
        for neurons, along, (start, *weights) in neuron_blocks(opened, part):
            merged = weights[-1] - start  # (rows, columns)
            for index, each in enumerate(weights):
                delta = each - start
                squares[index, neurons] += (delta * delta).sum(along)
                products[index, neurons] += (delta * merged).sum(along)
    return squares, products


def neuron_changes(base: str, models: Sequence[str], merges: Sequence[str], layer: int, neuron: int) -> NeuronChanges:
    """Compare what fine-tunes and merges changed in one neuron, of whose weights alone are read.

    Raises:
        InputError: as `inherited`; or there is no such layer or neuron.
    """
    opened = open_alike(base, [*models, *merges])
    architecture, mlp = opened[0].architecture, mlp_of(opened[0], layer, neuron)
    start, *weights = (_vector(each, architecture, mlp, neuron) for each in opened)
    after = torch.stack(weights)  # (T + M, d)
    changes = after - start
    products = (changes @ changes.T).numpy()  # (T + M, T + M)
    lengths = np.sqrt(products.diagonal())
    signs = changes.sign()
    both = (signs.abs() @ signs.abs().T).numpy()  # (T + M, T + M), the weights that both changed
    tunes, length = len(models), float(start.norm())
    return NeuronChanges(
        sizes=share(lengths, np.full(len(lengths), length)),
        turned=share((after @ start).numpy(), length * after.norm(dim=1).numpy()),
        parallel=share((changes @ start).square().numpy(), (length * lengths) ** 2),
        cosines=share(products, np.outer(lengths, lengths)),
        opposed=share(both - (signs @ signs.T).numpy(), 2 * both),
        kept=share(products[tunes:, :tunes], np.broadcast_to(lengths[:tunes] ** 2, (len(merges), tunes))),
    )


def _vector(checkpoint: Checkpoint, architecture: Architecture, mlp: MlpLayer, neuron: int) -> Tensor:
    """Return a neuron's weights one after the other, (d,) float64."""
    parts = [
        finite(checkpoint, part.tensor, weights_of(checkpoint, architecture, part, neuron).double())
        for part in mlp.maps
    ]
    return torch.cat(parts)
