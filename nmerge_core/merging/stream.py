"""Reading a family block by block: rows of one tensor from the base and every model, in float32, then forgotten."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import torch

from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.checkpoints.header import TensorInfo
from nmerge_core.checkpoints.token_rows import VocabularyMap, runs
from nmerge_core.checkpoints.vocabulary import counts_tokens
from nmerge_core.errors import InputError
from nmerge_core.merging.block import Block

# Entries per block and model: a few float32 copies of it stay in a core's cache, and calls still cost little beside it.
BLOCK_ELEMENTS = 1 << 17

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Rows:
    """Rows [start, stop) of the tensor `name`."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Stream:
    """The base (None where a method works on the weights themselves) and the models, opened from their headers."""

    base: Checkpoint | None
    models: tuple[Checkpoint, ...]
    device: torch.device
    vocabulary: VocabularyMap | None = None  # where rows of tokens come from, if not from the same row of every model

    @property
    def donor(self) -> Checkpoint:
        """The checkpoint whose tensors, configuration and tokenizer the merge takes: the base, else the first model."""
        return self.base or self.models[0]

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """Everything that is read: the base where there is one, then the models."""
        return [*([self.base] if self.base else []), *self.models]

    def info(self, name: str) -> TensorInfo:
        """Return the donor's tensor with the shape that it has in the merge."""
        tensor = self.donor.info(name)
        if self.vocabulary is None or not counts_tokens(name):
            return tensor
        return replace(tensor, shape=(self.vocabulary.rows, *tensor.shape[1:]))

    def rows(self, name: str) -> list[Rows]:
        """Cut a tensor into blocks of whole rows; a 1-D tensor counts each entry as a row."""
        tensor = self.info(name)
        step = max(1, BLOCK_ELEMENTS // max(1, tensor.row_elements))
        return [Rows(name, start, min(start + step, tensor.rows)) for start in range(0, tensor.rows, step)]

    def load(self, rows: Rows) -> Block:
        """Read one block of every model.

        Raises:
            InputError: an entry is NaN or infinite (the tensor and model are named), or a file is no longer whole.
        """
        neuronal = len(self.donor.info(rows.name).shape) > 1
        architecture = self.donor.architecture
        if self.vocabulary and counts_tokens(rows.name):
            held = self._matched(self.vocabulary, rows, neuronal)
        else:
            held = [self._read(checkpoint, rows, neuronal) for checkpoint in self.checkpoints]
        base = held.pop(0) if self.base else None
        deltas = torch.stack(held)  # (T, rows, columns)
        if base is None:
            base = torch.zeros_like(deltas[0])
        else:
            deltas -= base
        return Block(
            name=rows.name,
            base=base,
            deltas=deltas,
            start=rows.start,
            stop=rows.stop,
            neuronal=neuronal,
            layer=architecture.layer_of(rows.name),
            submodule=architecture.submodule(rows.name),
            neuron_axis=neurons.axis if (neurons := architecture.neurons(rows.name)) else None,
        )

    def _matched(self, vocabulary: VocabularyMap, rows: Rows, neuronal: bool) -> list[torch.Tensor]:
        """Read one block by tokens: each checkpoint's own rows, and where it has none what `VocabularyMap` says."""
        axis = 0 if neuronal else 1  # that counts tokens in what is read
        sources = vocabulary.sources[:, rows.start : rows.stop]
        own = [
            torch.cat([self._read_run(each, rows.name, run, neuronal) for run in runs(indices)], dim=axis)
            for each, indices in zip(self.checkpoints, sources, strict=True)
        ]
        if (sources >= 0).all():
            return own
        has = torch.from_numpy(sources >= 0).to(self.device).unsqueeze(-1 if neuronal else 1)  # (models, rows, 1)
        shared = sum(own[1:], own[0]) / has.sum(0).clamp(min=1)  # of a row that one model has: that row itself
        if self.base:
            shared = torch.where(has[0], own[0], shared)
        for row, place in vocabulary.fills.items():
            if rows.start <= row < rows.stop:
                filled = shared.narrow(axis, row - rows.start, 1)
                model, first = place or (0, -1)
                filled.copy_(self._read_run(self.checkpoints[model], rows.name, (first, 1), neuronal))
        return [torch.where(mine, values, shared) for mine, values in zip(has, own, strict=True)]

    def _read_run(self, checkpoint: Checkpoint, name: str, run: tuple[int, int], neuronal: bool) -> torch.Tensor:
        """Read consecutive rows, or zeros for rows that the checkpoint does not have."""
        first, count = run
        if first >= 0:
            return self._read(checkpoint, Rows(name, first, first + count), neuronal)
        shape = (count, checkpoint.info(name).row_elements) if neuronal else (1, count)
        return torch.zeros(shape, device=self.device)

    def _read(self, checkpoint: Checkpoint, rows: Rows, neuronal: bool) -> torch.Tensor:
        values = checkpoint.read(rows.name, rows.start, rows.stop).to(self.device).float()
        # A sum of finite entries stays finite in float32, so one number tells without a mask of the block.
        if not torch.isfinite(values.sum()):
            raise InputError(
                f"{checkpoint.reference}, tensor {rows.name}: rows {rows.start} to {rows.stop - 1} hold NaN or "
                "infinite entries; expected finite weights. Fetch or train this model again, or leave it out"
            )
        return values.flatten(1) if neuronal else values.view(1, -1)


def in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Apply `function` on one thread per core, each single-threaded, and yield the results in order.

    A few items per core are under way at once, so memory is bounded by blocks, not by the model.
    """
    workers = max(1, min(torch.get_num_threads(), os.cpu_count() or 1))
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        remaining = iter(items)
        pending: deque[Future[Result]] = deque(pool.submit(function, item) for item in islice(remaining, 4 * workers))
        try:
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield result
        finally:
            for future in pending:
                future.cancel()


def all_rows(stream: Stream, names: Sequence[str]) -> list[Rows]:
    """Cut the named tensors into blocks."""
    return [rows for name in names for rows in stream.rows(name)]
