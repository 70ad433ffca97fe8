"""Reading a family block by block: rows of one tensor from the base and every model, in float32, then forgotten."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from typing import TypeVar

import torch

from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.errors import InputError
from nmerge_core.merging.block import Block

# Entries per block and model: a few float32 copies of it stay in a core's cache, and calls still cost little beside it.
BLOCK_ELEMENTS = 1 << 17
_RUN = 256  # rows of a block that is stored transposed: its entries lie in runs of this length

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

    @property
    def donor(self) -> Checkpoint:
        """The checkpoint whose tensors, configuration and tokenizer the merge takes: the base, else the first model."""
        return self.base or self.models[0]

    def rows(self, name: str) -> list[Rows]:
        """Cut a tensor into blocks of weight neurons; a point parameter counts each entry as a row."""
        matrix = self.donor.architecture.matrix(name)
        step = max(_RUN if matrix.transposed else 1, BLOCK_ELEMENTS // max(1, matrix.columns))
        return [Rows(name, start, min(start + step, matrix.rows)) for start in range(0, matrix.rows, step)]

    def load(self, rows: Rows) -> Block:
        """Read one block of every model.

        Raises:
            InputError: an entry is NaN or infinite (the tensor and model are named), or a file is no longer whole.
        """
        architecture = self.donor.architecture
        matrix = architecture.matrix(rows.name)
        neurons = architecture.neurons(rows.name, rows.start, rows.stop)
        count = rows.stop - rows.start
        shape = (count, matrix.columns) if matrix.neuronal else (1, count)
        base = torch.zeros(shape, device=self.device)
        deltas = torch.empty((len(self.models), *shape), device=self.device)  # (T, rows, columns)
        for model, delta in zip(self.models, deltas, strict=True):
            self._read(model, rows, delta)
        if self.base:
            self._read(self.base, rows, base)
            deltas -= base
        return Block(
            name=rows.name,
            base=base,
            deltas=deltas,
            start=rows.start,
            stop=rows.stop,
            neuronal=matrix.neuronal,
            layer=architecture.layer_of(rows.name),
            submodule=architecture.submodule(rows.name),
            neurons=None if neurons is None else torch.from_numpy(neurons if matrix.neuronal else neurons.T),
        )

    def _read(self, checkpoint: Checkpoint, rows: Rows, values: torch.Tensor) -> None:
        """Read rows in float32 into `values`, (rows, columns)."""
        values.copy_(checkpoint.read_matrix(rows.name, rows.start, rows.stop).to(self.device).view(values.shape))
        # A sum of finite entries stays finite in float32, so one number tells without a mask of the block.
        if not isfinite(values.sum().item()):
            raise InputError(
                f"{checkpoint.reference}, tensor {rows.name}: rows {rows.start} to {rows.stop - 1} hold NaN or "
                "infinite entries; expected finite weights. Fetch or train this model again, or leave it out"
            )


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
