"""Reading a family block by block: rows of one tensor from the base and every model, in float32, then forgotten."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch

from nmerge_core.checkpoints.checkpoint import Checkpoint
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
    """The base, where one is named, and the models, opened from their headers.

    Blocks hold differences from the base, or the weights themselves and a zero base.
    """

    base: Checkpoint | None
    models: tuple[Checkpoint, ...]
    device: torch.device
    differences: bool = True

    @property
    def donor(self) -> Checkpoint:
        """The checkpoint whose tensors, configuration and tokenizer the merge takes: the base, else the first model."""
        return self.base or self.models[0]

    @property
    def sources(self) -> tuple[Checkpoint, ...]:
        """The checkpoints whose weights are read."""
        return (self.base, *self.models) if self.base and self.differences else self.models

    def rows(self, name: str) -> list[Rows]:
        """Cut a tensor into blocks of whole rows; a 1-D tensor counts each entry as a row."""
        tensor = self.donor.info(name)
        step = max(1, BLOCK_ELEMENTS // max(1, tensor.row_elements))
        return [Rows(name, start, min(start + step, tensor.rows)) for start in range(0, tensor.rows, step)]

    def load(self, rows: Rows) -> Block:
        """Read one block of every model.

        Raises:
            InputError: an entry is NaN or infinite (the tensor and model are named), or a file is no longer whole.
        """
        neuronal = len(self.donor.info(rows.name).shape) > 1
        architecture = self.donor.architecture
        base = self._read(self.base, rows, neuronal) if self.base and self.differences else None
        deltas = torch.stack([self._read(model, rows, neuronal) for model in self.models])  # (T, rows, columns)
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

    def beside(self, block: Block, checkpoint: Checkpoint) -> torch.Tensor:
        """Read from another checkpoint of the same tensors what lies beside a block: (rows, columns) float32."""
        return self._read(checkpoint, Rows(block.name, block.start, block.stop), block.neuronal)

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
