"""What a merge will read, compute and write, told from headers alone before it starts."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nmerge_core.checkpoints import Checkpoint, TensorInfo
from nmerge_core.checkpoints.computed import Computed
from nmerge_core.checkpoints.vocabulary import counts_tokens
from nmerge_core.checkpoints.writer import existing_parent
from nmerge_core.machine import cores
from nmerge_core.merging.compute.block import place_of
from nmerge_core.merging.compute.stream import BLOCK_ELEMENTS
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.plan.opened import Opened, open_recipe
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.progress import silent

# Of a process with torch, and of one with compiled loops alone, measured on two cores, files in the page cache: entries
# of one model that one core streams per second, seconds until the first, and bytes it occupies before any work.
_WITH_TORCH = (1.2e8, 3.0, 390e6)
_COMPILED = (3.5e8, 0.8, 140e6)
# In float64, of one core, in matrix products and factorisations: between 1.6e10 and 4e10 of two kinds of cores.
_OPERATIONS_PER_SECOND = 2.5e10
_TOKEN_BYTES = 300  # per row and model where tokens are matched: their texts and ids, measured
_BLOCK_COPIES = 6  # float32 copies of a block that a method holds at once


@dataclass(frozen=True)
class Estimate:
    """Sizes in bytes, `seconds` to the nearest order; `solving` says that the models are run on texts on top of it.

    `rows` counts the embeddings' rows in the merge, `appended` the tokens that follow those of the tokenizer it takes.
    """

    tensors: int
    parameters: int
    bytes_read: int
    bytes_written: int
    disk_free: int
    peak_memory: int
    seconds: float
    solving: bool
    rows: int
    appended: int
    conversation: str  # whose chat template, end tokens and generation settings the merge has
    warnings: tuple[str, ...]
    stages: Mapping[str, str] = field(default_factory=dict)  # what becomes of each before the last

    @property
    def lines(self) -> list[str]:
        """What a terminal shows."""
        return [
            f"tensors       {self.tensors:>10,}",
            f"parameters    {self.parameters:>10,}",
            f"token rows    {self.rows:>10,}" + (f" ({self.appended:,} tokens appended)" if self.appended else ""),
            f"reads         {self.bytes_read / 1e6:>10,.1f} MB",
            f"writes        {self.bytes_written / 1e6:>10,.1f} MB",
            f"disk free     {self.disk_free / 1e6:>10,.1f} MB",
            f"peak memory   {self.peak_memory / 1e6:>10,.1f} MB",
            f"about         {self.seconds:>10,.1f} s" + (" and running the models on texts" if self.solving else ""),
            *([f"conversation  {self.conversation}"] if self.conversation else []),
            *(f"stage         {name}: {made}" for name, made in self.stages.items()),
        ]


def estimate(recipe: Recipe, out: Path) -> Estimate:
    """Estimate the cost of a merge into `out`; a 7 B family takes well under two seconds.

    Raises:
        InputError: a model cannot be opened, models do not fit together, or parameters do not fit them.
    """
    return estimate_opened(open_recipe(recipe, "cpu"), out)


def estimate_opened(opened: Opened, out: Path) -> Estimate:
    """Estimate the cost of the merge of an opened recipe, as `estimate` does."""
    recipe, stream = opened.recipe, opened.stream
    layout = opened.layout(out)
    sources = stream.sources
    entries = sum(tensor.elements for tensor in layout.tensors.values())
    values, method = recipe.values(), recipe.method
    recipe.in_full(opened.places)  # an error where something that it names is not there
    method.checked(Context(recipe, stream, opened.merged_names, silent), values)
    passes, solving, needs = method.passes(values), method.solves(values), method.needs(stream, values)
    searching = method.searches(values)
    model = 4 * entries if searching else 0  # in float32 at most
    layer = max((_layer_bytes(checkpoint) for checkpoint in sources), default=0) if solving else 0
    workers = cores()
    merged = [layout.tensors[name] for name in opened.merged_names]
    by_torch = sum(tensor.elements for tensor in merged if not method.is_compiled(stream, tensor))
    _, start_seconds, start_bytes = _WITH_TORCH if by_torch else _COMPILED
    core_seconds = by_torch / _WITH_TORCH[0] + (entries - by_torch) / _COMPILED[0]  # of a pass over one model
    matched = stream.vocabulary.sources.size if stream.vocabulary else 0
    architecture = stream.donor.architecture
    whole = [tensor.elements for tensor in merged if method.whole(place_of(architecture, tensor.name), values)]
    computed = max((_computed_copies(checkpoint) for checkpoint in sources), default=0)
    block = 4 * (max([BLOCK_ELEMENTS, *whole]) * (len(sources) + _BLOCK_COPIES) + BLOCK_ELEMENTS * computed)
    read, stored = sum(each.bytes_read for each in sources), sum(each.bytes for each in sources)
    return Estimate(
        tensors=len(layout.tensors),
        parameters=entries,
        bytes_read=passes * read,
        bytes_written=layout.bytes,
        disk_free=shutil.disk_usage(existing_parent(out)).free,
        peak_memory=int(
            start_bytes + workers * block + len(sources) * layer + model + matched * _TOKEN_BYTES + needs.memory
        ),
        seconds=start_seconds
        + passes * len(sources) * core_seconds * (read / stored if stored else 1) / workers
        + needs.operations / (_OPERATIONS_PER_SECOND * workers),
        solving=solving or searching,
        rows=next((tensor.rows for tensor in layout.tensors.values() if counts_tokens(tensor.name)), 0),
        appended=len(opened.vocabulary.appended),
        conversation=opened.conversation.summary,
        warnings=opened.warnings,
    )


def _computed_copies(checkpoint: Checkpoint) -> int:
    """Count the copies of a block that are held at once to compute one of it, where it is computed."""

    def copies(tensor: TensorInfo) -> int:
        if not isinstance(tensor, Computed):
            return 0
        before = (copies(part) for source in tensor.sources for part in source.parts)
        return len(tensor.sources) + _BLOCK_COPIES + max(before, default=0)

    return max((copies(part) for tensor in checkpoint.tensors.values() for part in tensor.parts), default=0)


def _layer_bytes(checkpoint: Checkpoint) -> int:
    """Size in float32 of the largest layer, which solving holds of every model."""
    sizes: dict[int, int] = {}
    for name, tensor in checkpoint.tensors.items():
        layer = checkpoint.architecture.layer_of(name)
        if layer is not None:
            sizes[layer] = sizes.get(layer, 0) + 4 * tensor.elements
    return max(sizes.values(), default=0)
