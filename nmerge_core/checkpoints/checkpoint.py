"""A model folder opened from its headers alone; weights are read by rows when asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmerge_core.architecture import Architecture, Matrix, derive, towers
from nmerge_core.checkpoints.adapter import Adapter
from nmerge_core.checkpoints.header import TensorInfo
from nmerge_core.checkpoints.pickled import PICKLED
from nmerge_core.checkpoints.rows import read_rows, read_runs
from nmerge_core.errors import InputError

if TYPE_CHECKING:
    import torch

_OWN_CODE = "auto_map"  # the classes that a checkpoint brings along as Python files


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's configuration and its tensors in file order; no weight is held.

    With an adapter, `folder`, `config` and `tensors` are the model's own; `read` gives what the adapter makes of them.
    """

    reference: str
    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    adapter: Adapter | None = None

    @cached_property
    def architecture(self) -> Architecture:
        """The neurons of this model; raises InputError naming the model where the family is not known."""
        try:
            return derive(self.config, {name: tensor.shape for name, tensor in self.tensors.items()})
        except InputError as error:
            own = f"; it is defined by code of its own (config.json, key '{_OWN_CODE}'), which is never run"
            raise InputError(f"{self.reference}: {error}{own if _OWN_CODE in self.config else ''}") from None

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
    def pickled(self) -> bool:
        """Whether its own weights come from files of torch.save."""
        return any(tensor.file.suffix == PICKLED for tensor in self.tensors.values())

    @property
    def files(self) -> list[Path]:
        """The weight files, in order of name, the adapter's last."""
        own = sorted({tensor.file for tensor in self.tensors.values()})
        return [*own, self.adapter.file] if self.adapter else own

    def as_stored(self, name: str) -> bool:
        """Whether a tensor's file holds its entries as they are, with no adapter to be added to them."""
        return self.adapter is None or self.info(name).name not in self.adapter.changed

    def read(self, name: str, start: int = 0, stop: int | None = None) -> "torch.Tensor":
        """Read rows [start, stop) of a tensor in the checkpoint's own dtype, those that an adapter changes in float32.

        Raises:
            InputError: the tensor is not there, or its file ended or vanished since the headers were read.
        """
        tensor = self.info(name)
        stop = tensor.rows if stop is None else stop
        if self.adapter is None or self.as_stored(name):
            return read_rows(tensor, start, stop)
        values = read_rows(self.adapter.stored(tensor), start, stop).float()
        return self.adapter.add_to(values, tensor.name, start, stop)

    def read_matrix(self, name: str, matrix: Matrix, start: int, stop: int) -> "torch.Tensor":
        """Read rows [start, stop) of a tensor seen as `matrix`, (rows, columns), in the dtypes of `read`.

        Raises:
            InputError: as `read`.
        """
        tensor = self.info(name)
        adapter = None if self.as_stored(name) else self.adapter
        values = read_runs(adapter.stored(tensor) if adapter else tensor, matrix.runs(start, stop))
        if matrix.transposed:
            values = values.view(matrix.columns, stop - start).T.contiguous()
        values = values.view(stop - start, matrix.columns)  # (rows, columns)
        return adapter.add_to(values.float(), tensor.name, start, stop, matrix.transposed) if adapter else values

    def named_like(self, base: "Checkpoint") -> "Checkpoint":
        """Return the checkpoint with its tensors under the base's names, where only a prefix differs.

        A model that was saved with its head has the name of its body before every other tensor's (`transformer.h.0…`),
        one that was saved without has not (`h.0…`).
        """
        ours, theirs = min(towers(self.tensors), default=""), min(towers(base.tensors), default="")
        if ours.endswith(f".{theirs}"):
            prefix = ours.removesuffix(theirs)
            return replace(self, tensors={name.removeprefix(prefix): t for name, t in self.tensors.items()})
        if theirs.endswith(f".{ours}"):
            prefix = theirs.removesuffix(ours)
            named = {name if name in base.tensors else f"{prefix}{name}": t for name, t in self.tensors.items()}
            return replace(self, tensors=named)
        return self

    def info(self, name: str) -> TensorInfo:
        """Return where a tensor lies; raises InputError where the checkpoint has none of that name."""
        if name not in self.tensors:
            raise InputError(f"{self.reference}: no tensor '{name}'")
        return self.tensors[name]
