"""The stream of a family whose weights were read once and stay in memory."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nmerge_core.checkpoints import raw_bits
from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.checkpoints.raw_bits import RawBits
from nmerge_core.checkpoints.vocabulary import counts_tokens
from nmerge_core.machine import CPU
from nmerge_core.merging.compute.block import Entries, Once
from nmerge_core.merging.compute.stream import Rows, Stream
from nmerge_core.parallel import in_order
from nmerge_core.progress import Progress

Place = Literal["device", "memory", "files"]


@dataclass(frozen=True)
class ResidentStream(Stream):
    """A stream that reads from memory what `Stream` reads from files, and gives the same blocks.

    A tensor that compiled loops take is held as the bits of its blocks, (checkpoints, entries) each, so that a block is
    taken without a copy; any other as a matrix per checkpoint, on the device or in the host's memory. What is not held
    is read from the files.
    """

    bits: Mapping[str, Sequence[RawBits]] = field(default_factory=dict)
    matrices: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
    answers: dict[Rows, tuple[Hashable, Any]] = field(default_factory=dict)  # of each block, to its last question
    finite: set[tuple[Rows, bool]] = field(default_factory=set)  # blocks that are held and were found so

    def __reduce__(self) -> tuple[type[Stream], tuple[Any, ...]]:
        """Travel as the stream that it was read from: its files tell what it holds."""
        return Stream, tuple(getattr(self, each.name) for each in fields(Stream))

    @property
    def bytes(self) -> int:
        """What is held."""
        blocks = sum(block.nbytes for block in chain.from_iterable(self.bits.values()))
        return blocks + sum(each.nbytes for each in chain.from_iterable(self.matrices.values()))

    def plain(self, name: str) -> bool:
        """Whether a tensor's entries can be taken as they are stored."""
        return name in self.bits if self.bits or self.matrices else super().plain(name)

    def entries(self, rows: Rows) -> Entries:
        """Take one block of every source as it is stored."""
        if rows.name not in self.bits:
            return super().entries(rows)
        stored = self._bits(rows)[len(self.checkpoints) - len(self.sources) :]
        first, (_, columns) = rows.start * self.donor.architecture.matrix(rows.name).columns, self.shape(rows)
        return Entries(rows.name, first, stored, self.differences, columns, self.once(rows))

    def once(self, rows: Rows) -> Once:
        """Return what keeps the answer to the last question about a block."""

        def once(question: Hashable, find: Callable[[], Any]) -> Any:
            asked, answer = self.answers.get(rows, (None, None))
            if asked != question:
                answer = find()
                self.answers[rows] = (question, answer)
            return answer

        return once

    def _bits(self, rows: Rows) -> RawBits:
        """Return rows of a tensor in every checkpoint, (checkpoints, entries); those of one block without a copy."""
        step, columns = self.step(rows.name), self.donor.architecture.matrix(rows.name).columns
        first = rows.start // step
        blocks = self.bits[rows.name][first : -(-rows.stop // step)]
        joined = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)
        start, stop = ((row - first * step) * columns for row in (rows.start, rows.stop))
        return np.ascontiguousarray(joined[:, start:stop])

    def _read(self, checkpoint: Checkpoint, rows: Rows, values: Tensor) -> None:
        """Copy rows in float32 into `values`, (rows, columns)."""
        place = next((place for place, own in enumerate(self.checkpoints) if own is checkpoint), None)
        if place is None or not (rows.name in self.bits or rows.name in self.matrices):
            super()._read(checkpoint, rows, values)
        elif rows.name in self.matrices:
            own = self.matrices[rows.name][place][rows.start : rows.stop]
            values.copy_(own.to(self.device, non_blocking=True).view(values.shape))  # as it is held, then in float32
        else:
            bits = torch.from_numpy(self._bits(rows)[place])
            values.copy_(bits.view(torch.bfloat16 if bits.itemsize == 2 else torch.float32).view(values.shape))

    def _check_finite(self, rows: Rows, held: Tensor) -> None:
        """Check what is held once: to be asked, a device must have done all that it was told before."""
        if (rows, self.differences) in self.finite:
            return
        super()._check_finite(rows, held)
        if rows.name in self.matrices:
            self.finite.add((rows, self.differences))


def hold(stream: Stream, names: Sequence[str], place: Place, progress: Progress) -> ResidentStream:
    """Read the named tensors of every checkpoint of a stream into memory, whether or not it is a source of its merge.

    Args:
        stream: over the checkpoints' files.
        names: of the tensors.
        place: the device, the host's memory (from where blocks go to the device one by one), or the files themselves.
        progress: told of blocks and tensors.

    Raises:
        InputError: a file is no longer whole.
    """
    own = {name: getattr(stream, name) for name in stream.__dataclass_fields__}
    if place == "files":
        return ResidentStream(**own)
    bits: dict[str, list[RawBits]] = {}
    matrices: dict[str, list[Tensor]] = {}
    plain = [name for name in names if replace(stream, differences=True).plain(name)]
    cut = [rows for name in plain for rows in stream.rows(name)]

    def read(rows: Rows) -> RawBits:
        tensors = [checkpoint.info(rows.name) for checkpoint in stream.checkpoints]
        return raw_bits.read_bits(tensors, stream.donor.architecture.matrix(rows.name), rows.start, rows.stop)

    for done, (rows, block) in enumerate(zip(cut, in_order(read, cut), strict=True)):
        progress("Reading the family", done, len(cut), "blocks")
        bits.setdefault(rows.name, []).append(block)
    others = [name for name in names if name not in bits]
    for done, name in enumerate(others):
        progress("Reading the family", done, len(others), "tensors")
        matrix = stream.donor.architecture.matrix(name)
        counted = ((each, _rows(stream, each, name)) for each in stream.checkpoints)
        matrices[name] = [
            _at(place, each.read_matrix(name, matrix, 0, count), stream.device) for each, count in counted
        ]
    return ResidentStream(**own, bits=bits, matrices=matrices)


def _at(place: Place, tensor: Tensor, device: str) -> Tensor:
    """Put a tensor where it is held; from pinned memory a device takes blocks at the full speed of the bus."""
    return tensor.to(device) if place == "device" or device == CPU else tensor.pin_memory()


def _rows(stream: Stream, checkpoint: Checkpoint, name: str) -> int:
    """Return how many rows of a tensor a checkpoint has: of tokens its own number."""
    if stream.vocabulary and counts_tokens(name):
        return checkpoint.info(name).rows
    return stream.donor.architecture.matrix(name).rows
