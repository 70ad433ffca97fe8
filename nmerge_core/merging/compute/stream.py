"""Reading a family block by block: rows of one tensor from the base and every model, in float32, then forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite

import numpy as np

from nmerge_core.checkpoints import raw_bits
from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.checkpoints.header import TensorInfo
from nmerge_core.checkpoints.token_rows import VocabularyMap, runs
from nmerge_core.checkpoints.vocabulary import counts_tokens
from nmerge_core.errors import InputError
from nmerge_core.lazy import torch
from nmerge_core.machine import CPU
from nmerge_core.merging.compute.block import Block, Entries, Once, anew

# Entries per block and model: a few float32 copies of it stay in a core's cache, and calls still cost little beside it.
BLOCK_ELEMENTS = 1 << 17
_DEVICE_BLOCK_ELEMENTS = 1 << 23  # the same on an accelerator, which takes as long to be told of a block as to merge it
_RUN = 256  # rows of a block that is stored transposed: its entries lie in runs of this length


@dataclass(frozen=True)
class Rows:
    """Rows [start, stop) of the tensor `name`."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Stream:
    """The base, where one is named, and the models, opened from their headers.

    Blocks hold differences from the base, or the weights themselves and a zero base.
    """

    base: Checkpoint | None
    models: tuple[Checkpoint, ...]
    device: str
    differences: bool = True
    vocabulary: VocabularyMap | None = None  # where rows of tokens come from, if not from the same row of every model

    @property
    def donor(self) -> Checkpoint:
        """The checkpoint whose tensors, configuration and tokenizer the merge takes: the base, else the first model."""
        return self.base or self.models[0]

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """All that was opened: the base where one is named, then the models."""
        return (self.base, *self.models) if self.base else self.models

    @property
    def sources(self) -> tuple[Checkpoint, ...]:
        """The checkpoints whose weights are read: the base where differences from it are taken, then the models."""
        return self.checkpoints if self.differences else self.models

    def info(self, name: str) -> TensorInfo:
        """Return the donor's tensor with the name and the shape that it has in the merge."""
        tensor = replace(self.donor.info(name), name=name)  # a head may be the embeddings
        if self.vocabulary is None or not counts_tokens(name):
            return tensor
        return replace(tensor, shape=(self.vocabulary.rows, *tensor.shape[1:]))

    def count(self, name: str) -> int:
        """Return how many rows a tensor has in the merge: weight neurons, or entries of a point parameter."""
        if self.vocabulary and counts_tokens(name):
            return self.vocabulary.rows
        return self.donor.architecture.matrix(name).rows

    def rows(self, name: str) -> list[Rows]:
        """Cut a tensor into blocks."""
        count, step = self.count(name), self.step(name)
        if not self.donor.architecture.matrix(name).columns:
            return []
        return [Rows(name, start, min(start + step, count)) for start in range(0, count, step)]

    def step(self, name: str) -> int:
        """Return how many rows of a tensor a block has, its last one aside; a vector is one row and is not cut."""
        matrix = self.donor.architecture.matrix(name)
        if not matrix.neuronal:
            return max(1, matrix.rows)
        elements = BLOCK_ELEMENTS if self.device == CPU else _DEVICE_BLOCK_ELEMENTS
        return max(_RUN if matrix.transposed else 1, elements // max(1, matrix.columns))

    def shape(self, rows: Rows) -> tuple[int, int]:
        """Return how many rows and columns a block has; a vector is one row."""
        matrix, count = self.donor.architecture.matrix(rows.name), rows.stop - rows.start
        return (count, matrix.columns) if matrix.neuronal else (1, count)

    def plain(self, name: str) -> bool:
        """Whether a tensor's entries can be taken as they are stored (`entries`), for compiled loops on a CPU."""
        if self.device != CPU or (self.vocabulary and counts_tokens(name)):
            return False
        return all(each.as_stored(name) and each.info(name).dtype in raw_bits.DTYPES for each in self.sources)

    def entries(self, rows: Rows) -> Entries:
        """Read one block of every model as it is stored; the tensor is `plain`.

        Raises:
            InputError: a file is no longer whole.
        """
        matrix = self.donor.architecture.matrix(rows.name)
        tensors = [checkpoint.info(rows.name) for checkpoint in self.sources]
        read = raw_bits.read_bits(tensors, matrix, rows.start, rows.stop)
        first, (_, columns) = rows.start * matrix.columns, self.shape(rows)
        return Entries(rows.name, first, read, self.differences, columns, self.once(rows))

    def once(self, rows: Rows) -> Once:
        """Return who answers questions about a block."""
        return anew

    def load(self, rows: Rows) -> Block:
        """Read one block of every model.

        Raises:
            InputError: an entry is NaN or infinite (the tensor and model are named), or a file is no longer whole.
        """
        architecture = self.donor.architecture
        matrix = architecture.matrix(rows.name)
        neurons = architecture.neurons(rows.name, rows.start, rows.stop)
        shape = self.shape(rows)
        if self.vocabulary and counts_tokens(rows.name):
            held = torch.empty((len(self.checkpoints), *shape), device=self.device)
            self._match(self.vocabulary, rows, held, axis=0 if matrix.neuronal else 1)
        else:
            held = torch.empty((len(self.sources), *shape), device=self.device)
            for checkpoint, values in zip(self.sources, held, strict=True):
                self._read(checkpoint, rows, values)
        self._check_finite(rows, held)
        deltas = held[-len(self.models) :]  # (T, rows, columns)
        if self.base and self.differences:
            base = held[0]
            deltas -= base
        else:
            base = torch.zeros_like(held[0])
        return Block(
            name=rows.name,
            base=base,
            deltas=deltas,
            start=rows.start,
            stop=rows.stop,
            neuronal=matrix.neuronal,
            layer=architecture.layer_of(rows.name),
            submodule=architecture.submodule(rows.name),
            position=architecture.position(rows.name),
            neurons=None if neurons is None else torch.from_numpy(neurons if matrix.neuronal else neurons.T),
            once=self.once(rows),
        )

    def beside(self, block: Block, checkpoint: Checkpoint) -> torch.Tensor:
        """Read from another checkpoint of the same tensors what lies beside a block: (rows, columns) float32."""
        values = torch.empty_like(block.base)
        self._read(checkpoint, Rows(block.name, block.start, block.stop), values)
        return values

    def _match(self, vocabulary: VocabularyMap, rows: Rows, held: torch.Tensor, axis: int) -> None:
        """Read one block by tokens, which `axis` counts: own rows, and where there are none as `VocabularyMap` says."""
        indices = vocabulary.sources[:, rows.start : rows.stop]
        for checkpoint, own, values in zip(self.checkpoints, indices, held, strict=True):
            self._read_runs(checkpoint, rows.name, runs(own), values, axis)
        if (indices >= 0).all():
            return
        self._check_finite(rows, held)  # before one model's row stands in for another's
        has = torch.from_numpy(indices >= 0).to(self.device).unsqueeze(2 - axis)  # (models, rows, 1) or its mirror
        shared = sum(held[1:], held[0]) / has.sum(0).clamp(min=1)  # of a row that one model has: that row itself
        if self.base:
            shared = torch.where(has[0], held[0], shared)
        for row, place in vocabulary.fills.items():
            if rows.start <= row < rows.stop:
                model, first = place or (0, -1)
                filled = shared.narrow(axis, row - rows.start, 1)
                self._read_runs(self.checkpoints[model], rows.name, [(first, 1)], filled, axis)
        held.copy_(torch.where(has, held, shared))

    def _read_runs(
        self, checkpoint: Checkpoint, name: str, places: Sequence[tuple[int, int]], values: torch.Tensor, axis: int
    ) -> None:
        """Read runs of consecutive rows (first, number) one after the other; zeros for those that begin at −1."""
        at = 0
        for first, count in places:
            part = values.narrow(axis, at, count)
            if first < 0:
                part.zero_()
            else:
                self._read(checkpoint, Rows(name, first, first + count), part)
            at += count

    def _read(self, checkpoint: Checkpoint, rows: Rows, values: torch.Tensor) -> None:
        """Read rows in float32 into `values`, (rows, columns)."""
        matrix = self.donor.architecture.matrix(rows.name)
        read = checkpoint.read_matrix(rows.name, matrix, rows.start, rows.stop)
        values.copy_(read.to(self.device).view(values.shape))

    def _check_finite(self, rows: Rows, held: torch.Tensor) -> None:
        # A sum of finite weights stays finite in float32, so one number tells without a mask of the block.
        if isfinite(held.sum().item()):
            return
        for checkpoint, values in zip(self.checkpoints[-len(held) :], held, strict=True):
            if not isfinite(values.sum().item()):
                raise _not_finite(checkpoint, rows)

    def not_finite(self, rows: Rows, entries: Entries) -> InputError:
        """Return the error for entries of which some are NaN or infinite."""
        kind = np.uint32 if entries.stored.itemsize == 4 else np.uint16
        exponent = kind(0x7F800000 >> 32 - 8 * entries.stored.itemsize)
        bad = ((entries.stored & exponent) == exponent).any(axis=1)
        return _not_finite(self.sources[int(bad.argmax())], rows)


def _not_finite(checkpoint: Checkpoint, rows: Rows) -> InputError:
    own = checkpoint.info(rows.name)
    stored = "" if own.name == rows.name else f" ({own.name} of {min(own.files).parent})"
    return InputError(
        f"{checkpoint.reference}, tensor {rows.name}{stored}: rows {rows.start} to {rows.stop - 1} hold NaN or "
        "infinite entries; expected finite weights. Fetch or train this model again, or leave it out"
    )


def all_rows(stream: Stream, names: Sequence[str]) -> list[Rows]:
    """Cut the named tensors into blocks."""
    return [rows for name in names for rows in stream.rows(name)]


def whole_tensors(stream: Stream, names: Sequence[str]) -> list[Rows]:
    """Take each of the named tensors as one block."""
    return [Rows(each.name, 0, each.stop) for each in all_rows(stream, names) if each.stop == stream.count(each.name)]


def row_blocks(tensor: TensorInfo) -> list[Rows]:
    """Cut a stored tensor into blocks of rows of its first axis."""
    step = max(1, BLOCK_ELEMENTS // max(1, tensor.row_elements))
    return [Rows(tensor.name, start, min(start + step, tensor.rows)) for start in range(0, tensor.rows, step)]
