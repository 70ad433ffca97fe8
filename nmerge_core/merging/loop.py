"""The one loop that merges: read a block of every model, merge it in float32, write it in its place, forget it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nmerge_core.architecture import Architecture, Matrix
from nmerge_core.checkpoints import Checkpoint, TensorInfo, raw_bits
from nmerge_core.checkpoints.computed import Computed
from nmerge_core.checkpoints.rows import torch_dtype
from nmerge_core.checkpoints.writer import Layout, write_matrix
from nmerge_core.errors import InputError
from nmerge_core.lazy import torch
from nmerge_core.merging.compute.stream import Rows, Stream, row_blocks
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.recipe.registry import Method
from nmerge_core.merging.recipe.values import Values
from nmerge_core.merging.write.journal import journal_of, journaled
from nmerge_core.merging.write.process_group import ProcessGroup
from nmerge_core.parallel import in_order
from nmerge_core.progress import Progress


@dataclass(frozen=True)
class Merger:
    """What makes the blocks of a merge: `targets` are its tensors as stored, `values` the parameters of each."""

    stream: Stream
    method: Method
    values: Mapping[str, Values]
    prepared: Prepared
    targets: Mapping[str, TensorInfo]

    def bits(self, rows: Rows) -> NDArray[np.generic]:
        """Make a block, as it is stored but for the order of its rows and columns, which are those of `matrix`.

        Raises:
            InputError: an entry is NaN or infinite, of a model or in the dtype of the merge, or a file is damaged.
        """
        target = self.targets[rows.name]
        if self.is_carried(rows.name):
            return _carried(self.stream.donor, rows, target)
        merged = merge_rows(self.stream, self.method, self.values[rows.name], self.prepared, rows, target)
        return merged if isinstance(merged, np.ndarray) else raw_bits.bits_of(merged)

    def matrix(self, name: str) -> Matrix:
        """Return how a tensor is seen as rows and columns; what is carried, by its first axis."""
        target = self.targets[name]
        if self.is_carried(name):
            return Matrix(target.rows, target.row_elements)
        return self.stream.donor.architecture.matrix(name)

    def is_carried(self, name: str) -> bool:
        """Whether a tensor goes along as it is."""
        return name in self.stream.donor.carried

    def is_compiled(self, name: str) -> bool:
        """Whether a tensor is merged without torch, and so is all that is computed where it is read."""
        if self.is_carried(name) or not self.method.is_compiled(self.stream, self.targets[name]):
            return False
        read = (part for checkpoint in self.stream.sources for part in checkpoint.info(name).parts)
        return all(each.by.is_compiled(each.whole.name) for each in read if isinstance(each, Computed))


def merger_of(context: Context, targets: Mapping[str, TensorInfo], prepared: Prepared) -> Merger:
    """Return what makes the blocks of some of a merge's tensors."""
    recipe, stream = context.recipe, context.stream
    merged = [name for name in targets if name in stream.donor.tensors]
    values = tensor_values(recipe, stream.donor.architecture, merged)
    return Merger(stream, recipe.method, values, prepared, targets)


def merge_tensors(
    context: Context, layout: Layout, staging: Path, group: ProcessGroup, prepared: Prepared, progress: Progress
) -> None:
    """Merge this process's share of the tensors into the files of `layout`, noting in `staging` which are finished.

    Raises:
        InputError: as `Merger.bits`.
    """
    names = group.shard(layout)
    merger = merger_of(context, {name: layout.tensors[name] for name in names}, prepared)
    done = journaled(staging)
    left = [name for name in names if name not in done]
    merged = [name for name in left if not merger.is_carried(name)]
    rows = merger.method.blocks(merger.stream, merged, context.recipe.values())
    rows += [each for name in left if merger.is_carried(name) for each in row_blocks(merger.targets[name])]

    def work(each: Rows) -> None:
        write_matrix(merger.targets[each.name], merger.matrix(each.name), each.start, merger.bits(each))

    total = sum(layout.tensors[name].bytes for name in names)
    written = sum(layout.tensors[name].bytes for name in names if name in done)
    with_torch = not all(map(merger.is_compiled, names))
    progress("Merging", written / 1e6, total / 1e6, "MB")
    with journal_of(staging, group.rank) as note:
        for each, _ in zip(rows, in_order(work, rows, with_torch=with_torch), strict=True):
            target = layout.tensors[each.name]
            whole = target.rows if merger.is_carried(each.name) else merger.stream.count(each.name)
            written += (each.stop - each.start) * target.bytes // whole
            if each.stop == whole:
                note(target)
            progress("Merging", written / 1e6, total / 1e6, "MB")


def merge_rows(
    stream: Stream, method: Method, values: Values, prepared: Prepared, rows: Rows, target: TensorInfo
) -> NDArray[np.generic] | torch.Tensor:
    """Merge one block in the dtype of `target`: bits of entries as they are stored, or a tensor on the device.

    Raises:
        InputError: an entry is NaN or infinite, of a model or in that dtype.
    """
    if method.is_compiled(stream, target):
        merged = _merge_compiled(stream, method, values, prepared, rows, target.dtype)
        if raw_bits.all_finite(merged, target.dtype):
            return merged
    else:
        tensor = merge_block(stream, method, values, prepared, rows, target)
        if bool(tensor.isfinite().all()):
            return tensor
    raise _does_not_fit(target, rows)


def merge_block(
    stream: Stream, method: Method, values: Values, prepared: Prepared, rows: Rows, target: TensorInfo
) -> torch.Tensor:
    """Merge one block by torch in the dtype of `target`, finite or not.

    Raises:
        InputError: an entry of a model is NaN or infinite.
    """
    block = stream.load(rows)
    return method.merge(block, values, prepared).add_(block.base).to(torch_dtype(target.dtype))


def _merge_compiled(
    stream: Stream, method: Method, values: Values, prepared: Prepared, rows: Rows, dtype: str
) -> NDArray[np.generic]:
    """Merge one block by a compiled loop, as it is stored."""
    rule = method.rule or method.rows
    assert rule
    entries = stream.entries(rows)
    merged = raw_bits.empty_bits(entries.stored.shape[1], dtype)
    if not rule(rows.name, values, prepared).merge_entries(entries, merged):
        raise stream.not_finite(rows, entries)
    return raw_bits.as_stored(merged, dtype)


def _carried(donor: Checkpoint, rows: Rows, target: TensorInfo) -> NDArray[np.generic]:
    """Read rows of a tensor that no forward pass reads; what is not finite may stand there, but does not come of it."""
    values = donor.read_carried(rows.name, rows.start, rows.stop)
    bits = raw_bits.bits_of(values.to(torch_dtype(target.dtype)))
    if not raw_bits.all_finite(bits, target.dtype) and values.isfinite().all():
        raise _does_not_fit(target, rows)
    return bits


def _does_not_fit(target: TensorInfo, rows: Rows) -> InputError:
    return InputError(
        f"tensor {target.name}: rows {rows.start} to {rows.stop - 1} of the merge hold entries that {target.dtype} "
        "cannot hold (infinite or NaN); write another 'dtype' (bfloat16, float32), or lower weights and lambda"
    )


def tensor_values(recipe: Recipe, architecture: Architecture, names: Iterable[str]) -> dict[str, Values]:
    """Resolve the parameters of every tensor; where no filter matches it a parameter has its default."""
    values, defaults = recipe.values(), recipe.defaults
    return {
        name: values.at(name, architecture.position(name), architecture.layer_of(name)).with_defaults(defaults)
        for name in names
    }
