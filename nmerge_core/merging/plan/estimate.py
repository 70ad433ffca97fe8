"""What a merge will read, compute and write, told from headers alone before it starts."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from nmerge_core.cache import cache_root
from nmerge_core.checkpoints import Checkpoint
from nmerge_core.checkpoints.vocabulary import counts_tokens
from nmerge_core.checkpoints.writer import existing_parent, plan_layout
from nmerge_core.inputs import Places
from nmerge_core.machine import cores
from nmerge_core.merging.compute.block import place_of
from nmerge_core.merging.compute.stream import BLOCK_ELEMENTS
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.plan.opened import open_recipe
from nmerge_core.merging.recipe.recipe import DTYPES, Recipe
from nmerge_core.progress import silent

# Of a process with torch, and of one with compiled loops alone, measured on two cores, files in the page cache: entries
# of one model that one core streams per second, seconds until the first, and bytes it occupies before any work.
_WITH_TORCH = (1.2e8, 3.0, 390e6)
_COMPILED = (3.5e8, 0.8, 140e6)
_OPERATIONS_PER_SECOND = 1.6e10  # in float64, of one core, in matrix products and factorisations
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
        ]


def estimate(recipe: Recipe, out: Path) -> Estimate:
    """Estimate the cost of a merge into `out`; a 7 B family takes well under two seconds.

    Raises:
        InputError: a model cannot be opened, models do not fit together, or parameters do not fit them.
    """
    opened = open_recipe(recipe, "cpu")
    stream = opened.stream
    layout = plan_layout(out, opened.tensors, DTYPES[recipe.dtype] if recipe.dtype else None)
    sources = stream.sources
    entries = sum(tensor.elements for tensor in layout.tensors.values())
    values, method = recipe.values(), recipe.method
    recipe.in_full(Places(cache_root()))  # an error where something that it names is not there
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
    block = max([BLOCK_ELEMENTS, *whole]) * 4 * (len(sources) + _BLOCK_COPIES)
    return Estimate(
        tensors=len(layout.tensors),
        parameters=entries,
        bytes_read=passes * sum(checkpoint.bytes for checkpoint in sources),
        bytes_written=layout.bytes,
        disk_free=shutil.disk_usage(existing_parent(out)).free,
        peak_memory=int(
            start_bytes + workers * block + len(sources) * layer + model + matched * _TOKEN_BYTES + needs.memory
        ),
        seconds=start_seconds
        + passes * len(sources) * core_seconds / workers
        + needs.operations / (_OPERATIONS_PER_SECOND * workers),
        solving=solving or searching,
        rows=next((tensor.rows for tensor in layout.tensors.values() if counts_tokens(tensor.name)), 0),
        appended=len(opened.vocabulary.appended),
        conversation=opened.conversation.summary,
        warnings=opened.warnings,
    )


def _layer_bytes(checkpoint: Checkpoint) -> int:
    """Size in float32 of the largest layer, which solving holds of every model."""
    sizes: dict[int, int] = {}
    for name, tensor in checkpoint.tensors.items():
        layer = checkpoint.architecture.layer_of(name)
        if layer is not None:
            sizes[layer] = sizes.get(layer, 0) + 4 * tensor.elements
    return max(sizes.values(), default=0)
