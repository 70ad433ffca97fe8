"""What a method sees: the same rows of one tensor, in the base and in every model."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nmerge_core.architecture import Architecture
from nmerge_core.checkpoints.raw_bits import RawBits

if TYPE_CHECKING:
    import torch

Once = Callable[[Hashable, Callable[[], Any]], Any]


def anew(question: Hashable, find: Callable[[], Any]) -> Any:
    """Find the answer to a question about a block whose models do not stay in memory."""
    return find()


@dataclass(frozen=True)
class Place:
    """Where a tensor stands in the model, as the blocks of it say; `of_neurons` if its entries belong to MLP neurons.

    `group` is set where one group of these neurons is meant.
    """

    name: str
    neuronal: bool
    layer: int | None
    submodule: str
    position: float
    of_neurons: bool
    group: str | None = None

    def for_group(self, group: str) -> "Place":
        """Return the same place as one group of neurons sees it."""
        return replace(self, group=group)


def place_of(architecture: Architecture, name: str) -> Place:
    """Say where a tensor stands."""
    return Place(
        name,
        architecture.matrix(name).neuronal,
        architecture.layer_of(name),
        architecture.submodule(name),
        architecture.position(name),
        architecture.neurons(name, 0, 1) is not None,
    )


@dataclass(frozen=True)
class Block:
    """Rows [start, stop) of a tensor: `base` (rows, columns) and `deltas` (models, rows, columns), both float32.

    `neuronal` says whether rows are weight neurons (`architecture.Matrix`) or the tensor is a point parameter, whose
    entries [start, stop) are one row of columns. `layer` and `submodule` say where the tensor belongs, `position` its
    place in the model (0 the first layer, 1 the last), `neurons` the
    MLP neuron of each entry, int64 that broadcasts to (rows, columns), None where entries belong to no single neuron.
    `group` is set where one group of these neurons is merged. `once(question, find)` is `find()`, found anew only where
    the last question about the block was another, if its models stay in memory. `merged` is what was made of it before
    a step.
    """

    name: str
    base: "torch.Tensor"
    deltas: "torch.Tensor"
    start: int
    stop: int
    neuronal: bool
    layer: int | None
    submodule: str
    position: float
    neurons: "torch.Tensor | None"
    group: str | None = None
    once: Once = anew
    merged: "torch.Tensor | None" = None

    @property
    def change(self) -> "torch.Tensor":
        """What was merged of it so far, (rows, columns), which a step changes."""
        assert self.merged is not None, "only a step sees what was merged"
        return self.merged

    @property
    def first(self) -> int:
        """Where the block's first entry lies in the tensor, its rows one after the other."""
        return self.start * (self.deltas.shape[-1] if self.neuronal else 1)

    def for_group(self, group: str) -> "Block":
        """Return the same block as one group of neurons sees it."""
        return replace(self, group=group)


@dataclass(frozen=True)
class Entries:
    """A block as it is stored, for methods that merge it by compiled loops.

    `stored` (sources, n) holds the base first if `differences` from it are merged, then the models; `first` and `once`
    are as in `Block`, and a row has `columns` entries.
    """

    name: str
    first: int
    stored: RawBits
    differences: bool
    columns: int = 1
    once: Once = anew
