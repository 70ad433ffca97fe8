"""The one loop that merges: read a block of every model, merge it in float32, write it in its place, forget it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nmerge_core.architecture import Architecture, Matrix
from nmerge_core.checkpoints import Checkpoint, TensorInfo, raw_bits
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


def merge_tensors(
    context: Context, layout: Layout, staging: Path, group: ProcessGroup, prepared: Prepared, progress: Progress
) -> None:
    """Merge this process's share of the tensors into the files of `layout`, noting in `staging` which are finished.

    Raises:
        InputError: an entry is NaN or infinite, of a model or in the dtype of the merge, or a file is no longer whole.
    """
    method, stream = context.recipe.method, context.stream
    names = group.shard(layout)
    merged_names = [name for name in names if name in stream.donor.tensors]
    values = tensor_values(context.recipe, stream.donor.architecture, merged_names)
    done = journaled(staging)
    carried = stream.donor.carried
    rows = method.blocks(stream, [name for name in merged_names if name not in done], context.recipe.values())
    rows += [each for name in names if name in carried and name not in done for each in row_blocks(carried[name])]
    compiled = {name for name in merged_names if method.is_compiled(stream, layout.tensors[name])}

    def work(each: Rows) -> None:
        if each.name in carried:
            _carry(stream.donor, each, layout.tensors[each.name])
            return
        target = layout.tensors[each.name]
        merged = merge_rows(stream, method, values[each.name], prepared, each, target)
        bits = merged if isinstance(merged, np.ndarray) else raw_bits.bits_of(merged)
        write_matrix(target, stream.donor.architecture.matrix(each.name), each.start, bits)

    total = sum(layout.tensors[name].bytes for name in names)
    written = sum(layout.tensors[name].bytes for name in names if name in done)
    progress("Merging", written / 1e6, total / 1e6, "MB")
    with journal_of(staging, group.rank) as note:
        for each, _ in zip(rows, in_order(work, rows, with_torch=len(compiled) < len(names)), strict=True):
            target = layout.tensors[each.name]
            whole = target.rows if each.name in carried else stream.count(each.name)
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


def _carry(donor: Checkpoint, rows: Rows, target: TensorInfo) -> None:
    """Copy rows of a tensor that no forward pass reads; what is not finite may stand there, but does not come of it."""
    values = donor.read_carried(rows.name, rows.start, rows.stop)
    bits = raw_bits.bits_of(values.to(torch_dtype(target.dtype)))
    if not raw_bits.all_finite(bits, target.dtype) and values.isfinite().all():
        raise _does_not_fit(target, rows)
    write_matrix(target, Matrix(target.rows, target.row_elements), rows.start, bits)


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
