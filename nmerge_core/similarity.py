"""How far a fine-tune turned the weights of each neuron away from the base: cosines (NeuronMerge App. A.3)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from nmerge_core.architecture import LAYER, MlpLayer, NeuronMap
from nmerge_core.checkpoints import Checkpoint, labels, open_checkpoint
from nmerge_core.checkpoints.matching import as_family
from nmerge_core.errors import InputError
from nmerge_core.progress import Progress, silent

_BLOCK = 1 << 20  # elements of a matrix held at a time, in float64


@dataclass(frozen=True)
class Cosines:
    """Cosines between the neuron weights of a base and of its fine-tunes.

    Attributes:
        summary: model, layer, matrix (gate, up, down; up and down of an MLP without gate), neurons, mean, min, p01,
            p50, zero. `zero` counts the neurons whose vector is zero in either model: they have no cosine and are in
            none of the statistics.
        moved: model, layer, neuron, matrix, cosine of the neurons of lowest cosine per model and matrix, lowest first.
        neurons: model, layer, neuron, cosine and change (‖θ − θ_0‖ / ‖θ_0‖) of every neuron's whole vector, that of all
            its matrices one after the other; NaN where a vector is zero. No rows where a family's neurons are not
            known.
    """

    summary: pd.DataFrame
    moved: pd.DataFrame
    neurons: pd.DataFrame


def cosine(base: str, models: Sequence[str], *, lowest: int = 50, progress: Progress = silent) -> Cosines:
    """Compute cos(w_base, w_ft) of every neuron: row j of gate and up, column j of down, whatever the stored form.

    Layers of a model of several towers are counted through all of them, neurons of a layer through all its experts.
    Where a family's neurons are not known, each matrix in a layer stands under its own name, and its rows for
    neurons (of a model without layers: every matrix).
    Weights are streamed in blocks of rows and accumulated in float64: memory is bounded by blocks, not by models.

    Args:
        base: the base model.
        models: its fine-tunes.
        lowest: neurons listed in `moved` per model and matrix.
        progress: told of matrices.

    Raises:
        InputError: a model cannot be opened, or a matrix of the base is missing or has another shape in a fine-tune.

    Source: NeuronMerge App. A.3, Fig. 8; quantiles and lowest neurons are added.
    """
    opened = open_alike(base, models)
    matrices = [(layer, matrix) for layer in _layers(opened[0]) for matrix in layer.matrices]
    names, summary, moved = labels(models), [], []
    whole: dict[int, _Sums] = {}
    progress("Cosine similarity", 0, len(matrices), "matrices")
    for done, (layer, matrix) in enumerate(matrices, start=1):
        sums = _sums(opened, layer, matrix)
        if not opened[0].architecture.unknown:
            whole[layer.layer] = whole[layer.layer].plus(sums) if layer.layer in whole else sums
        for model, cosines in zip(names, sums.cosines, strict=True):
            summary.append({"model": model, "layer": layer.layer, "matrix": matrix, **_statistics(cosines)})
            found_at = np.argsort(cosines, kind="stable")[: min(lowest, np.count_nonzero(~np.isnan(cosines)))]
            moved += [(model, layer.layer, int(neuron), matrix, float(cosines[neuron])) for neuron in found_at]
        progress("Cosine similarity", done, len(matrices), "matrices")
    ranked = pd.DataFrame(moved, columns=["model", "layer", "neuron", "matrix", "cosine"])
    ranked = ranked.sort_values(["cosine", "layer", "neuron"], kind="stable")
    return Cosines(
        pd.DataFrame(summary),
        ranked.groupby(["model", "matrix"], sort=False).head(lowest).reset_index(drop=True),
        _of_neurons(names, whole),
    )


def _of_neurons(names: Sequence[str], whole: "Mapping[int, _Sums]") -> pd.DataFrame:
    frames = [
        pd.DataFrame(
            {"model": name, "layer": layer, "neuron": np.arange(len(cosines)), "cosine": cosines, "change": changes}
        ).astype({"cosine": "float32", "change": "float32"})
        for layer, sums in whole.items()
        for name, cosines, changes in zip(names, sums.cosines, sums.changes, strict=True)
    ]
    empty = pd.DataFrame(columns=["model", "layer", "neuron", "cosine", "change"])
    return pd.concat(frames, ignore_index=True) if frames else empty


def open_alike(base: str, models: Sequence[str]) -> list[Checkpoint]:
    """Open a base and what was made of it, under the base's names.

    Raises:
        InputError: a model cannot be opened, or a matrix of the base's neurons is missing or has another shape in it.
    """
    opened = as_family(open_checkpoint(base), [open_checkpoint(model) for model in models])
    origin = opened[0]
    for checkpoint in opened[1:]:
        for name in dict.fromkeys(part.tensor for layer in _layers(origin) for part in layer.maps):
            expected, found = origin.info(name).shape, checkpoint.info(name).shape
            if found != expected:
                raise InputError(
                    f"{checkpoint.reference}, {name}: expected shape {list(expected)} as in {base}, found "
                    f"{list(found)}; name fine-tunes of this base"
                )
    return opened


def _layers(checkpoint: Checkpoint) -> Sequence[MlpLayer]:
    return _rows(checkpoint) if checkpoint.architecture.unknown else checkpoint.architecture.layers


def _rows(checkpoint: Checkpoint) -> list[MlpLayer]:
    """Return the rows of every matrix in a layer as if they were neurons, where neurons are not known."""
    architecture = checkpoint.architecture
    found = []
    for name in checkpoint.tensors:
        layer, seen, inside = architecture.layer_of(name), architecture.matrix(name), LAYER.match(name)
        if seen.neuronal and (inside and layer is not None or not architecture.depth):
            label = (inside["rest"] if inside else name).removesuffix(".weight")
            rows = NeuronMap(name, layer or 0, label, 0, seen.rows, 0, 0)
            found.append(MlpLayer(layer or 0, "", seen.rows, seen.columns, (), (rows,)))
    return sorted(found, key=lambda each: each.layer)


@dataclass(frozen=True)
class _Sums:
    """Products over the weights of a layer's neurons, float64.

    Of each fine-tune with the base `dots` and with itself `squares`, (fine-tunes, neurons); of the base with itself
    `base`, (neurons,).
    """

    dots: Tensor
    squares: Tensor
    base: Tensor

    def plus(self, other: "_Sums") -> "_Sums":
        """Return the products over the weights of both."""
        return _Sums(self.dots + other.dots, self.squares + other.squares, self.base + other.base)

    @property
    def cosines(self) -> NDArray[np.float64]:
        """The cosines with the base's, (fine-tunes, neurons); NaN for zero vectors."""
        # One root of the product, so that equal vectors have cosine 1 exactly; 0 / 0 is NaN.
        return (self.dots / (self.base * self.squares).sqrt()).clamp(-1, 1).numpy()

    @property
    def changes(self) -> NDArray[np.float64]:
        """‖θ − θ_0‖ / ‖θ_0‖, (fine-tunes, neurons); NaN where the base's is a zero vector."""
        square = (self.squares - 2 * self.dots + self.base).clamp(min=0)
        return (square / torch.where(self.base > 0, self.base, torch.nan)).sqrt().numpy()


def _sums(checkpoints: Sequence[Checkpoint], layer: MlpLayer, matrix: str) -> _Sums:
    """Return the products of one matrix of a layer, the first checkpoint being the base."""
    models = len(checkpoints) - 1
    dots, squares = torch.zeros(2, models, layer.d_ffn, dtype=torch.float64)
    base_squares = torch.zeros(layer.d_ffn, dtype=torch.float64)
    for part in layer.maps:
        # Biases are no part of a neuron's vector.
        if part.matrix != matrix or not checkpoints[0].architecture.matrix(part.tensor).neuronal:
            continue
        for neurons, along, (w0, *weights) in neuron_blocks(checkpoints, part):
            base_squares[neurons] += (w0 * w0).sum(along)
            for index, w in enumerate(weights):
                dots[index, neurons] += (w0 * w).sum(along)
                squares[index, neurons] += (w * w).sum(along)
    return _Sums(dots, squares, base_squares)


def neuron_blocks(checkpoints: Sequence[Checkpoint], part: NeuronMap) -> Iterator[tuple[slice, int, list[Tensor]]]:
    """Read what a tensor has of a layer's neurons in blocks of rows, of models under the first one's names.

    Yields:
        Which neurons, the axis along which each one's weights lie, and of every model these weights, (rows, columns)
        float64.
    """
    oriented = checkpoints[0].architecture.matrix(part.tensor)
    step = max(1, _BLOCK // oriented.columns)
    for start in range(part.start, part.stop, step):
        stop = min(start + step, part.stop)
        if part.axis == 0:
            rows = part.within(start, stop)
            first, count, own = part.neuron(rows.start), len(rows), slice(rows.start - start, None, part.step)
        else:
            first, count, own = part.first, oriented.columns, slice(None)
        weights = [each.read_matrix(part.tensor, oriented, start, stop)[own].double() for each in checkpoints]
        yield slice(first, first + count), 1 - part.axis, weights


def _statistics(cosines: NDArray[np.float64]) -> dict[str, float]:
    known = cosines[~np.isnan(cosines)]
    facts: dict[str, float] = {"neurons": len(cosines)}
    if len(known):
        p01, p50 = np.quantile(known, [0.01, 0.5])
        facts |= {"mean": known.mean(), "min": known.min(), "p01": p01, "p50": p50}
    else:
        facts |= dict.fromkeys(("mean", "min", "p01", "p50"), np.nan)
    return {**facts, "zero": len(cosines) - len(known)}
