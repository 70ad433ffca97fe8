"""Tensors that are in no file: their entries are computed when they are read, and read like any other's."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nmerge_core.checkpoints.header import DTYPE_BYTES, TensorInfo

Runs = Sequence[tuple[int, int]]  # of entries as they would be stored: the first of each run, and their number


class Computation(Protocol):
    """What computes the tensors of a model: `key` tells what it makes from what any other makes."""

    @property
    def key(self) -> str:
        """16 hex digits of all that decides the tensors."""

    def fill(self, name: str, runs: Runs, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes of runs of entries of a tensor, as they would be stored.

        Raises:
            InputError: a file that it reads is no longer whole, or an entry is NaN or infinite.
        """

    def is_compiled(self, name: str) -> bool:
        """Whether a tensor is computed without torch."""

    def check_unchanged(self) -> None:
        """Check that what it reads is what was opened; raises InputError naming the first file that is not."""


@dataclass(frozen=True)
class Computed(TensorInfo):
    """A tensor that is computed, or a part of it from `offset` on: `whole` says where all of it would be stored.

    `sources` are the tensors that are read for it.
    """

    whole: TensorInfo
    sources: tuple[TensorInfo, ...]
    by: Computation

    @property
    def files(self) -> frozenset[Path]:
        """The files that it is computed from."""
        return frozenset(file for source in self.sources for file in source.files)

    @property
    def bytes_read(self) -> int:
        """The size of all that is read to compute it: of a part, a share of what is read for the whole."""
        whole = sum(source.bytes_read for source in self.sources)
        return whole * self.elements // self.whole.elements if self.whole.elements else 0

    def fill(self, runs: Runs, buffer: memoryview) -> memoryview:
        """Fill the start of `buffer` with the bytes of runs of its entries; return the rest of it."""
        size = DTYPE_BYTES[self.dtype]
        before = (self.offset - self.whole.offset) // size  # entries
        end = size * sum(count for _, count in runs)
        self.by.fill(self.whole.name, [(before + first, count) for first, count in runs], buffer[:end])
        return buffer[end:]
