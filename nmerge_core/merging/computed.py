"""A merge whose weights are computed when they are read: the model that it would write, without files of weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nmerge_core.architecture import Matrix
from nmerge_core.checkpoints import Checkpoint, TensorInfo, label
from nmerge_core.checkpoints.computed import Computed, Runs
from nmerge_core.checkpoints.header import DTYPE_BYTES
from nmerge_core.checkpoints.json_file import read_json
from nmerge_core.checkpoints.opening import checkpoint_of
from nmerge_core.errors import InputError
from nmerge_core.files.kept_files import digest
from nmerge_core.merging.compute.stream import BLOCK_ELEMENTS, Rows
from nmerge_core.merging.loop import Merger, merger_of
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.plan.opened import Opened
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.progress import silent

Part = tuple[int, NDArray[np.generic]]  # the byte at which it begins among all that is read, and entries as stored


def computed(opened: Opened, folder: Path) -> Checkpoint:
    """Return what an opened recipe makes, with weights that are computed when they are read.

    They are the bytes of the merge's files, if its method merges every entry by itself and finds nothing out before;
    `folder` has all that lies beside these files.

    Raises:
        InputError: parameters do not go together, or with the models.
    """
    context = Context(opened.recipe, opened.stream, opened.merged_names, silent)
    opened.recipe.method.checked(context, opened.recipe.values())
    layout = opened.layout(folder)
    full, read = opened.recipe.in_full(opened.places)
    by = _Computation(opened, merger_of(context, layout.tensors, Prepared()), digest([full.yaml, read]), str(folder))
    tensors: dict[str, TensorInfo] = {
        name: Computed(name, own.dtype, own.shape, own.file, own.offset, own, by.sources(name), by)
        for name, own in layout.tensors.items()
    }
    config = read_json(folder / "config.json", "it describes the model")
    return checkpoint_of(str(folder), folder, config, tensors)


@dataclass(frozen=True, eq=False)
class _Computation:
    """The merge of an opened recipe, done for what is read of it; `reference` is what its model is called."""

    opened: Opened
    merger: Merger
    key: str
    reference: str

    def fill(self, name: str, runs: Runs, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes of runs of entries, merging the rows that they lie in."""
        stored = np.frombuffer(buffer, np.uint8)
        try:
            for place, part in self._parts(name, runs):
                stored[place : place + part.nbytes] = part.reshape(-1).view(np.uint8)
        except InputError as error:
            raise InputError(f"{label(self.reference)}, which is computed when it is read: {error}") from error

    def is_compiled(self, name: str) -> bool:
        """Whether a tensor is merged without torch."""
        return self.merger.is_compiled(name)

    def check_unchanged(self) -> None:
        """Check that the files that are merged are those that were opened."""
        self.opened.check_unchanged()

    def sources(self, name: str) -> tuple[TensorInfo, ...]:
        """Return the tensors that one is merged from."""
        stream = self.merger.stream
        if self.merger.is_carried(name):
            return (stream.donor.carried[name],)
        return tuple(checkpoint.info(name) for checkpoint in stream.sources)

    def _parts(self, name: str, runs: Runs) -> Iterator[Part]:
        """Yield what lies in runs of entries, block after block."""
        matrix, size = self.merger.matrix(name), DTYPE_BYTES[self.merger.targets[name].dtype]
        if matrix.transposed:
            yield from self._columns(name, matrix, size, runs)
            return
        place, columns = 0, max(1, matrix.columns)
        for first, count in runs:
            for rows in self._cut(name, first // columns, -(-(first + count) // columns)):
                begin = rows.start * columns
                part = self.merger.bits(rows).reshape(-1)[max(first - begin, 0) : first + count - begin]
                yield place, part
                place += part.nbytes

    def _columns(self, name: str, matrix: Matrix, size: int, runs: Runs) -> Iterator[Part]:
        """Yield what lies in runs of entries of a tensor whose file has one column of its `matrix` after the other."""
        height = matrix.rows // matrix.stack
        lines = list[tuple[int, int, int, int]]()  # of each column in a run: its place, the column, rows [start, stop)
        place = 0
        for first, count in runs:
            while count:
                line, row = divmod(first, height)
                index, column = divmod(line, matrix.columns)
                taken, start = min(count, height - row), index * height + row
                lines.append((place, column, start, start + taken))
                place, first, count = place + taken * size, first + taken, count - taken
        first, last = min((each[2] for each in lines), default=0), max((each[3] for each in lines), default=0)
        for rows in self._cut(name, first, last):
            block = np.ascontiguousarray(self.merger.bits(rows).reshape(-1, matrix.columns).T)  # (columns, rows)
            for place, column, start, stop in lines:
                part = block[column, max(start - rows.start, 0) : max(stop - rows.start, 0)]
                yield place + max(rows.start - start, 0) * size, part

    def _cut(self, name: str, start: int, stop: int) -> Iterator[Rows]:
        """Cut rows of a tensor into blocks."""
        carried = self.merger.is_carried(name)
        columns = max(1, self.merger.matrix(name).columns)
        step = max(1, BLOCK_ELEMENTS // columns) if carried else self.merger.stream.step(name)
        for first in range(start, stop, step):
            yield Rows(name, first, min(first + step, stop))
