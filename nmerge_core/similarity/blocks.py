"""The weights of neurons in a base and what was made of it, side by side, block by block."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from nmerge_core.architecture import LAYER, MlpLayer, NeuronMap
from nmerge_core.checkpoints import Checkpoint, open_checkpoint
from nmerge_core.checkpoints.finite import finite
from nmerge_core.checkpoints.matching import as_family
from nmerge_core.errors import InputError

_BLOCK = 1 << 20  # elements of a matrix held at a time, in float64


def open_alike(base: str, models: Sequence[str]) -> list[Checkpoint]:
    """Open a base and what was made of it, under the base's names.

    Raises:
        InputError: a model cannot be opened, or a matrix of the base's neurons is missing or has another shape in it.
    """
    opened = as_family(open_checkpoint(base), [open_checkpoint(model) for model in models])
    origin = opened[0]
    for checkpoint in opened[1:]:
        for name in dict.fromkeys(part.tensor for layer in layers_of(origin) for part in layer.maps):
            expected, found = origin.info(name).shape, checkpoint.info(name).shape
            if found != expected:
                raise InputError(
                    f"{checkpoint.reference}, {name}: expected shape {list(expected)} as in {base}, found "
                    f"{list(found)}; name fine-tunes of this base"
                )
    return opened


def layers_of(checkpoint: Checkpoint) -> Sequence[MlpLayer]:
    """Return the neurons of each layer; where they are not known, the rows of every matrix in its layer."""
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


def neuron_blocks(checkpoints: Sequence[Checkpoint], part: NeuronMap) -> Iterator[tuple[slice, int, list[Tensor]]]:
    """Read what a tensor has of a layer's neurons in blocks of rows, of models under the first one's names.

    Yields:
        Which neurons, the axis along which each one's weights lie, and of every model these weights, (rows, columns)
        float64.

    Raises:
        InputError: a weight is NaN or infinite.
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
        weights = [
            finite(each, part.tensor, each.read_matrix(part.tensor, oriented, start, stop)[own].double())
            for each in checkpoints
        ]
        yield slice(first, first + count), 1 - part.axis, weights
