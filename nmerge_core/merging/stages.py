"""A recipe in stages: each makes a model that later ones merge, and the last one the output.

What merges every entry by itself is computed block by block where a later stage reads it (`StagedRecipe.computed`); any
other stage is merged into a folder, which goes when no later one needs it. What is in progress lies in `.OUT.stages`,
each model in a folder that its key names (`StagedRecipe.keys`). After a kill the same recipe goes on at the stage, and
within it at the tensor, that was not finished. OUT appears when it is whole.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from nmerge_core import distributed
from nmerge_core.cache import cache_root
from nmerge_core.checkpoints import Checkpoint, open_checkpoint
from nmerge_core.checkpoints.fingerprint import stamps
from nmerge_core.checkpoints.writer import check_target
from nmerge_core.errors import InputError
from nmerge_core.inputs import Places
from nmerge_core.machine import choose_device, kind_of
from nmerge_core.merging import pipeline
from nmerge_core.merging.computed import computed
from nmerge_core.merging.plan.estimate import Estimate, estimate_opened
from nmerge_core.merging.plan.kept import Kept, nothing_kept
from nmerge_core.merging.plan.opened import Opened, open_recipe
from nmerge_core.merging.recipe.recipe import Recipe
from nmerge_core.merging.recipe.staged_recipe import StagedRecipe
from nmerge_core.merging.run_formats import formats_of_stages
from nmerge_core.merging.stage_folders import REPORT, StageFolders, how_made
from nmerge_core.merging.write.beside import write_beside
from nmerge_core.merging.write.report import Report
from nmerge_core.merging.write.staging import lock_output
from nmerge_core.progress import Progress, silent


def estimate(recipe: StagedRecipe, out: Path) -> Estimate:
    """Check every stage as if those before were made, and return what all of them read, write and take together.

    Raises:
        InputError: a stage does not fit its models; it is named.
    """
    with TemporaryDirectory(prefix="nmerge-stages-") as root:
        made, costs = dict[str, Checkpoint](), dict[str | None, Estimate]()
        for name, stage in recipe.each:
            with _named(name):
                opened = _open(stage, {each: Path(root) / each for each in made}, made, "cpu")
                costs[name] = estimate_opened(opened, out)
                if name is not None:
                    made[name] = _outlined(opened, Path(root) / name, name in recipe.computed)
    written = [cost for name, cost in costs.items() if name not in recipe.computed]
    return replace(
        costs[None],
        bytes_read=sum(cost.bytes_read for cost in written),
        bytes_written=sum(cost.bytes_written for cost in written),
        peak_memory=max(cost.peak_memory for cost in written),
        seconds=sum(cost.seconds for cost in written),
        solving=any(cost.solving for cost in written),
        warnings=tuple(f"{_told(name)}: {warning}" for name, cost in costs.items() for warning in cost.warnings),
        stages={name: how_made(0 if name in recipe.computed else costs[name].bytes_written) for name in recipe.stages},
    )


def merge(
    recipe: StagedRecipe, out: Path, *, device: str = "auto", progress: Progress = silent, kept: Kept = nothing_kept
) -> Report:
    """Merge all stages, one after the other, the last into a complete checkpoint folder at `out`.

    Raises:
        InputError: as `pipeline.merge` of a stage, which is named, or another process merges into `out`.
    """
    first = distributed.join()[0] == 0
    hidden = out.absolute().parent / f".{out.name}.stages"
    if out.exists() and first:
        shutil.rmtree(hidden, ignore_errors=True)  # left where a kill came after all was done
    check_target(out, 0)
    with lock_output(out) if first else nullcontext():
        return _merge(recipe, out, hidden, first, device, progress, kept)


def _merge(
    recipe: StagedRecipe, out: Path, hidden: Path, first: bool, device: str, progress: Progress, kept: Kept
) -> Report:
    times = sorted(stamps(map(open_checkpoint, recipe.references)).values())  # fingerprints sample large files
    chosen = choose_device(device)
    keys = recipe.keys(Places(cache_root()), f"{kind_of(chosen)} {times}", dict(formats_of_stages(recipe, chosen)))
    work = StageFolders(recipe, hidden, out.name, keys)
    earlier = hidden.exists()
    if first:
        work.clear()
    report, made = None, dict[str, Checkpoint]()

    def make(name: str | None) -> None:
        nonlocal report
        folder, is_computed = work.folder(name), name in recipe.computed
        if is_computed or not folder.exists():
            needed = work.needs(name)
            for each in needed:
                if each not in made:
                    make(each)

            def told(stage: str, done: float, total: float, unit: str = "") -> None:
                progress(f"{_told(name)}: {stage}", done, total, unit)

            with _named(name):
                opened = _open(work.stages[name], {each: work.folder(each) for each in needed}, made, device)
                if not folder.exists():
                    report = pipeline.merge_opened(opened, folder, told, kept, weights=not is_computed)
                if name is not None and is_computed:
                    made[name] = computed(opened, folder)
        if name is not None:
            made[name] = made.get(name) or open_checkpoint(str(folder))
            if first:
                work.note(name)
        if first:
            work.drop()

    try:
        make(None)
    except InputError:
        if not earlier and first:
            shutil.rmtree(hidden, ignore_errors=True)
        raise
    if first:
        work.tell()
        os.replace(work.folder(None), out)
        shutil.rmtree(hidden, ignore_errors=True)
        report = None
    return report or Report(**json.loads((out / REPORT).read_text(encoding="utf-8")))


def _open(recipe: Recipe, folders: Mapping[str, Path], made: Mapping[str, Checkpoint], device: str) -> Opened:
    """Open a stage's recipe with the models of earlier ones, which are called by their folders."""
    own = recipe.renamed(lambda name: str(folders[name]) if name in folders else name)
    return open_recipe(own, device, {str(folder): made[name] for name, folder in folders.items()})


@contextmanager
def _named(name: str | None) -> Iterator[None]:
    """Name the stage in what is wrong with it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{_told(name)}: {error}") from error


def _told(name: str | None) -> str:
    return f"stage '{name}'" if name is not None else "last stage"


def _outlined(opened: Opened, folder: Path, is_computed: bool) -> Checkpoint:
    """Return what a stage would make: where it is written, with headers alone, in files without blocks."""
    folder.mkdir()
    layout = opened.layout(folder)
    write_beside(opened, folder, layout.without_files if is_computed else layout)
    if is_computed:
        return computed(opened, folder)
    for file, header in layout.headers.items():
        with file.open("wb") as stream:
            stream.write(header)
            stream.truncate(layout.sizes[file])
    return open_checkpoint(str(folder))
