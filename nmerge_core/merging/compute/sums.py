"""What is found of each block, added up tensor by tensor."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nmerge_core.merging.compute.stream import Rows, Stream, all_rows
from nmerge_core.parallel import in_order
from nmerge_core.progress import Progress

Number = TypeVar("Number", np.int64, np.float64)


def sum_blocks(
    stream: Stream,
    names: Sequence[str],
    find: Callable[[Rows], NDArray[Number]],
    zero: NDArray[Number],
    stage: str,
    progress: Progress,
) -> dict[str, NDArray[Number]]:
    """Return per tensor the sum of what `find` finds of its blocks, in the order of their rows; `zero` of no block.

    `find` takes torch where a tensor's entries are not plain.
    """
    rows = all_rows(stream, names)
    found = dict.fromkeys(names, zero)
    with_torch = not all(map(stream.plain, names))
    for done, (each, own) in enumerate(zip(rows, in_order(find, rows, with_torch=with_torch), strict=True)):
        progress(stage, done, len(rows), "blocks")
        found[each.name] = found[each.name] + own
    return found
