"""A merge from its recipe to its folder: open the models, prepare the method, merge, and say what was done."""

import hashlib
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

from nmerge_core.checkpoints.writer import Layout, check_target
from nmerge_core.compiler import told_of_compiling
from nmerge_core.machine import kind_of, peak_memory
from nmerge_core.merging.loop import merge_tensors
from nmerge_core.merging.plan.context import Context
from nmerge_core.merging.plan.kept import Kept, nothing_kept
from nmerge_core.merging.plan.opened import Opened, open_recipe
from nmerge_core.merging.recipe.prepared import Prepared
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.write.beside import write_beside
from nmerge_core.merging.write.process_group import ProcessGroup, process_group
from nmerge_core.merging.write.report import Report, describe, source
from nmerge_core.merging.write.staging import disk_errors, lock_output, open_staging, publish, staging_folder
from nmerge_core.progress import Progress, silent
from nmerge_core.version import __version__


def merge(
    recipe: Recipe, out: Path, *, device: str = "auto", progress: Progress = silent, kept: Kept = nothing_kept
) -> Report:
    """Merge a recipe's models into a complete checkpoint folder at `out`.

    The folder appears only when it is complete. Work in progress lies beside it in `.<name>.part`; the same recipe goes
    on there after a kill, at the first tensor that was not finished. Among the processes of `accelerate launch` the
    tensors are divided (`process_group`); `out` is then on a file system that all of them see. What finished runs have
    measured, as `kept` finds it, is not measured again.

    Raises:
        InputError: the recipe does not fit its models, `out` exists, the disk is full, or a weight is NaN or infinite.
        ProcessLost: another of the processes ended.
    """
    return merge_opened(open_recipe(recipe, device), out, progress, kept)


def merge_opened(
    opened: Opened, out: Path, progress: Progress = silent, kept: Kept = nothing_kept, *, weights: bool = True
) -> Report:
    """Merge an opened recipe as `merge` does; without `weights` make all that belongs to it but their files."""
    with process_group() as group:
        layout = opened.layout(staging_folder(out))
        planned = layout if weights else layout.without_files
        watched = group.watched(progress)
        with told_of_compiling(lambda: watched("Compiling for this processor, once", 0, 1, "loops")):
            return _merge(opened, planned, out, group, watched, kept)


def _merge(opened: Opened, layout: Layout, out: Path, group: ProcessGroup, progress: Progress, kept: Kept) -> Report:
    started = time.monotonic()
    recipe, stream, vocabulary, conversation = opened.recipe, opened.stream, opened.vocabulary, opened.conversation
    staging = staging_folder(out)
    if group.first:
        check_target(out, layout.bytes - sum(512 * file.stat().st_blocks for file in layout.sizes if file.exists()))
    with lock_output(out) if group.first else disk_errors(out):
        context = Context(recipe, stream, opened.merged_names, progress, kept=kept)
        prepared = group.broadcast(staging, lambda: _prepare(opened, context, layout, staging))
        ready = time.monotonic()
        if layout.sizes:
            merge_tensors(context, layout, staging, group, prepared, progress)
        opened.check_unchanged()
        group.barrier(staging, progress)
        merged = time.monotonic()
        warnings = [*opened.warnings, *prepared.report.get("warnings", ())]
        found = {each.name: asdict(each) for each in (*recipe.method.results, *prepared.results)}
        results = [found[name] for name in found if name in prepared.report]
        report = Report(
            version=__version__,
            method=recipe.merge_method,
            base=source(opened.named[0]) if recipe.base_model else None,
            models=[source(model) for model in opened.named[1 if recipe.base_model else 0 :]],
            dtype=recipe.dtype or "+".join(sorted({tensor.dtype for tensor in layout.tensors.values()})),
            tensors=len(layout.tensors),
            bytes_written=layout.bytes,
            seconds={"prepare": ready - started, "merge": merged - ready},
            peak_memory=peak_memory(),
            results=results,
            facts={
                **prepared.report,
                **({"slices": recipe.content["slices"]} if recipe.slices else {}),
                "warnings": warnings,
                **vocabulary.report(stream.checkpoints),
                **conversation.report(),
            },
        )
        if group.first:
            write_beside(opened, staging, layout)
            architectures = stream.donor.config.get("architectures") or ()
            describe(staging, resolved(opened, prepared), prepared, report, architectures, conversation.summary)
            publish(staging, out)
        group.release()
    return report


def resolved(opened: Opened, prepared: Prepared) -> Recipe:
    """Return the recipe of a merge as it is recorded: all named in full, with what was found out filled in."""
    full, _ = replace(opened.recipe, chat_template=opened.conversation.choice).in_full(opened.places)
    return full.resolved(prepared)


def _prepare(opened: Opened, context: Context, layout: Layout, staging: Path) -> Prepared:
    """Find what the method has to know first, and make the folder of the work in progress."""
    recipe = opened.recipe
    opened.vocabulary.extension()  # an error of it comes before the work
    prepared = recipe.method.facts(context, recipe.values())
    open_staging(staging, layout, _identity(opened, prepared))
    return prepared


def _identity(opened: Opened, prepared: Prepared) -> str:
    """Name everything that decides the output's bytes."""
    full, read = opened.recipe.in_full(opened.places)
    tokens = opened.vocabulary.rows.digest if opened.vocabulary.rows else ""
    times = sorted(opened.stamps.values())  # fingerprints sample large files
    device = kind_of(opened.stream.device)
    content = json.dumps([device, full.resolved(prepared).yaml, read, times, prepared.digest, tokens])
    return hashlib.sha256(content.encode()).hexdigest()
