"""A model folder opened from its headers alone; weights are read by rows when asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmerge_core.architecture import Architecture, Matrix, derive
from nmerge_core.checkpoints.adapter import Adapter
from nmerge_core.checkpoints.computed import Computation, Computed
from nmerge_core.checkpoints.header import TensorInfo
from nmerge_core.checkpoints.pickled import PICKLED
from nmerge_core.checkpoints.quantised import Dequantised, read_dequantised
from nmerge_core.checkpoints.rows import read_rows, read_runs
from nmerge_core.errors import InputError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's configuration and its tensors in file order; no weight is held.

    `tensors` are the parameters of the model that runs; `carried` lie beside them and go along with a merge as they are
    (layers that predict tokens beyond the next, counters). With an adapter, `folder`, `config` and `tensors` are the
    model's own; `read` gives what the adapter makes of them. One that is `stacked` of others' layers is in no folder.
    Some tensors may be computed when they are read (`Computed`).
    """

    reference: str
    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    carried: Mapping[str, TensorInfo] = field(default_factory=dict)
    adapter: Adapter | None = None
    stacked: bool = False

    @cached_property
    def architecture(self) -> Architecture:
        """What its tensors are: matrices, layers and, where the family is known, neurons."""
        return derive(self.reference, self.config, {name: tensor.shape for name, tensor in self.tensors.items()})

    @property
    def parameters(self) -> int:
        """The number of weights, a tied tensor counted once."""
        return sum(tensor.elements for tensor in self.tensors.values())

    @property
    def bytes(self) -> int:
        """The size of all weights in bytes, and of the adapter's file."""
        own = sum(tensor.bytes for tensor in self.tensors.values())
        return own + self.adapter.file.stat().st_size if self.adapter else own

    @property
    def bytes_read(self) -> int:
        """The size of all that is read where all weights are: of those that are computed, of what they come from."""
        return self.bytes + sum(tensor.bytes_read - tensor.bytes for tensor in self.tensors.values())

    @property
    def computations(self) -> list[Computation]:
        """What computes weights of it that are in no file, in order of their keys."""
        tensors = (part for each in (self.tensors, self.carried) for tensor in each.values() for part in tensor.parts)
        found = {tensor.by.key: tensor.by for tensor in tensors if isinstance(tensor, Computed)}
        return [found[key] for key in sorted(found)]

    @property
    def pickled(self) -> bool:
        """Whether its own weights come from files of torch.save."""
        return any(tensor.file.suffix == PICKLED for tensor in self.tensors.values())

    @property
    def quantised(self) -> str:
        """The format in which some of its weights are quantised and from which they are read: fp8, mxfp4, or none."""
        return next((tensor.kind for tensor in self.tensors.values() if isinstance(tensor, Dequantised)), "")

    @property
    def files(self) -> list[Path]:
        """The weight files, in order of name, the adapter's last."""
        own = sorted(
            {file for each in (self.tensors, self.carried) for tensor in each.values() for file in tensor.files}
        )
        return [*own, self.adapter.file] if self.adapter else own

    def as_stored(self, name: str) -> bool:
        """Whether a tensor's file holds its entries as they are: not quantised, and with no adapter to be added."""
        tensor = self.info(name)
        return not isinstance(tensor, Dequantised) and (self.adapter is None or tensor.name not in self.adapter.changed)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> "torch.Tensor":
        """Read rows [start, stop) of a tensor in the checkpoint's own dtype.

        What is dequantised or changed by an adapter is read in float32.

        Raises:
            InputError: the tensor is not there, or its file ended or vanished since the headers were read.
        """
        tensor = self.info(name)
        stop = tensor.rows if stop is None else stop
        if self.as_stored(name):
            return read_rows(tensor, start, stop)
        values = _stored_rows(self.adapter.stored(tensor) if self.adapter else tensor, start, stop)
        return self.adapter.add_to(values, tensor.name, start, stop) if self.adapter else values

    def read_matrix(self, name: str, matrix: Matrix, start: int, stop: int) -> "torch.Tensor":
        """Read rows [start, stop) of a tensor seen as `matrix`, (rows, columns), in the dtypes of `read`.

        Raises:
            InputError: as `read`.
        """
        tensor = self.info(name)
        adapter = None if self.as_stored(name) else self.adapter
        stored = adapter.stored(tensor) if adapter else tensor
        if isinstance(stored, Dequantised):
            values = read_dequantised(stored, matrix, start, stop)
        else:
            values = read_runs(stored, matrix.runs(start, stop))
            if matrix.transposed:
                values = values.view(matrix.columns, stop - start).T.contiguous()
            values = values.view(stop - start, matrix.columns)  # (rows, columns)
        return adapter.add_to(values.float(), tensor.name, start, stop, matrix.transposed) if adapter else values

    def read_carried(self, name: str, start: int, stop: int) -> "torch.Tensor":
        """Read rows [start, stop) of a carried tensor, in its own dtype or, dequantised, in float32."""
        tensor = self.carried[name]
        return _stored_rows(tensor, start, stop) if isinstance(tensor, Dequantised) else read_rows(tensor, start, stop)

    def info(self, name: str) -> TensorInfo:
        """Return where a tensor lies; raises InputError where the checkpoint has none of that name."""
        if name not in self.tensors:
            raise InputError(f"{self.reference}: no tensor '{name}'")
        return self.tensors[name]


def _stored_rows(tensor: TensorInfo, start: int, stop: int) -> "torch.Tensor":
    """Read rows [start, stop) of the first axis in float32."""
    if not isinstance(tensor, Dequantised):
        return read_rows(tensor, start, stop).float()
    inner = prod(tensor.shape[1:-1])  # rows of the last two axes in one of the first
    return tensor.read(start * inner, stop * inner).view(stop - start, *tensor.shape[1:])
