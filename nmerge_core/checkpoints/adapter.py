"""What a LoRA adapter changes of a model, computed by rows when they are read."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from nmerge_core.checkpoints.header import TensorInfo
from nmerge_core.checkpoints.rows import read_columns, read_rows

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LowRank:
    """The change s·BA of a weight, A (r, in) and B (out, r); `transposed` where the weight is stored (in, out)."""

    a: TensorInfo
    b: TensorInfo
    scale: float
    transposed: bool

    def add_to(self, values: "torch.Tensor", start: int, stop: int, transposed: bool = False) -> "torch.Tensor":
        """Add the change of rows [start, stop) to `values`, (rows, columns) float32, in place; `transposed`, of Wᵀ."""
        if self.transposed != transposed:
            left, right = read_columns(self.a, start, stop).T, read_rows(self.b).T
        else:
            left, right = read_rows(self.b, start, stop), read_rows(self.a)
        return values.addmm_(left.float(), right.float(), alpha=self.scale)  # (rows, r) @ (r, columns)


@dataclass(frozen=True)
class Shift:
    """The change s·b of a bias, where the adapter was trained with `lora_bias`."""

    b: TensorInfo
    scale: float

    def add_to(self, values: "torch.Tensor", start: int, stop: int, transposed: bool = False) -> "torch.Tensor":
        """Add the change of entries [start, stop) to `values`, as many float32, in place."""
        return values.add_(read_rows(self.b, start, stop).float().view_as(values), alpha=self.scale)


@dataclass(frozen=True)
class Adapter:
    """What an adapter does to tensors of its model, by their names there: first it replaces, then it adds."""

    file: Path
    replaced: Mapping[str, TensorInfo]
    added: Mapping[str, LowRank | Shift]
    warnings: tuple[str, ...]

    @cached_property
    def changed(self) -> frozenset[str]:
        """The names of the tensors that are changed."""
        return frozenset((*self.replaced, *self.added))

    @property
    def settings(self) -> str:
        """What decides the changes beside the bytes of the weights, wherever the files lie."""
        return repr([(name, {**vars(change), "a": None, "b": None}) for name, change in sorted(self.added.items())])

    def stored(self, tensor: TensorInfo) -> TensorInfo:
        """Return what stands in the place of a tensor of the model: one of the adapter's, or the tensor itself."""
        return self.replaced.get(tensor.name, tensor)

    def add_to(
        self, values: "torch.Tensor", name: str, start: int, stop: int, transposed: bool = False
    ) -> "torch.Tensor":
        """Add what the adapter adds to rows [start, stop) of a tensor, or of its transpose, to their float32 values.

        The sum is not rounded to the model's dtype. Held are those rows' part of one factor and the other whole.

        Raises:
            InputError: the adapter's file ended or vanished since its header was read.
        """
        return self.added[name].add_to(values, start, stop, transposed) if name in self.added else values
