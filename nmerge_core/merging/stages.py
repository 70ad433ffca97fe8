"""A recipe in stages: each is merged into a folder beside the output, which goes when no later stage needs it.

What is in progress lies in `.OUT.stages`, each model in a folder that its key names (`StagedRecipe.keys`). After a kill
the same recipe goes on at the stage, and within it at the tensor, that was not finished. OUT appears when it is whole.
"""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nmerge_core import distributed
from nmerge_core.cache import cache_root
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.checkpoints.fingerprint import stamps
from nmerge_core.checkpoints.writer import check_target, plan_layout
from nmerge_core.errors import InputError
from nmerge_core.files.kept_files import remove, write_text
from nmerge_core.files.yaml_file import read_mapping
from nmerge_core.inputs import Places
from nmerge_core.machine import choose_device, kind_of
from nmerge_core.merging import pipeline
from nmerge_core.merging.plan.estimate import Estimate
from nmerge_core.merging.plan.estimate import estimate as estimate_one
from nmerge_core.merging.plan.kept import Kept, nothing_kept
from nmerge_core.merging.plan.opened import open_recipe
from nmerge_core.merging.recipe.mergekit_recipe import write_yaml
from nmerge_core.merging.recipe.recipe import DTYPES, Recipe
from nmerge_core.merging.recipe.staged_recipe import StagedRecipe, named_by
from nmerge_core.merging.run_formats import formats_of_stages
from nmerge_core.merging.write.beside import write_beside
from nmerge_core.merging.write.report import Report
from nmerge_core.merging.write.staging import lock_output
from nmerge_core.progress import Progress, silent

_RECIPE, _REPORT, _CARD = "nmerge_recipe.yaml", "nmerge_report.json", "README.md"


def estimate(recipe: StagedRecipe, out: Path) -> Estimate:
    """Check every stage as if those before were made, and return what all of them read, write and take together.

    Raises:
        InputError: a stage does not fit its models; it is named.
    """
    with TemporaryDirectory(prefix="nmerge-stages-") as folder:
        made, costs = dict[str, Path](), list[Estimate]()
        for name, stage in recipe.each:
            own = _with_made(stage, made)
            try:
                costs.append(estimate_one(own, out))
                if name is not None:
                    made[name] = _outline(own, Path(folder) / name)
            except InputError as error:
                raise InputError(f"{_told(name)}: {error}") from error
    return replace(
        costs[-1],
        bytes_read=sum(cost.bytes_read for cost in costs),
        bytes_written=sum(cost.bytes_written for cost in costs),
        peak_memory=max(cost.peak_memory for cost in costs),
        seconds=sum(cost.seconds for cost in costs),
        solving=any(cost.solving for cost in costs),
        warnings=tuple(
            f"{_told(name)}: {warning}"
            for (name, _), cost in zip(recipe.each, costs, strict=True)
            for warning in cost.warnings
        ),
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
    work = _Work(recipe, hidden, out.name, keys)
    earlier = hidden.exists()
    if first:
        work.clear()
    report = None

    def make(name: str | None) -> None:
        nonlocal report
        if not work.folder(name).exists():
            needed = work.needs(name)
            for each in needed:
                make(each)
            own = _with_made(work.stages[name], {each: work.folder(each) for each in needed})

            def told(stage: str, done: float, total: float, unit: str = "") -> None:
                progress(f"{_told(name)}: {stage}", done, total, unit)

            try:
                report = pipeline.merge(own, work.folder(name), device=device, progress=told, kept=kept)
            except InputError as error:
                raise InputError(f"{_told(name)}: {error}") from error
        if first and name is not None:
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
    return report or Report(**json.loads((out / _REPORT).read_text(encoding="utf-8")))


def _with_made(recipe: Recipe, made: dict[str, Path]) -> Recipe:
    """Return a stage's recipe with the folders of earlier ones in place of their names."""
    return recipe.renamed(lambda name: str(made[name]) if name in made else name)


def _told(name: str | None) -> str:
    return f"stage '{name}'" if name is not None else "last stage"


def _outline(recipe: Recipe, folder: Path) -> Path:
    """Write what a stage would make but its weights, of which there are headers alone, in files without blocks."""
    folder.mkdir()
    opened = open_recipe(recipe, "cpu")
    layout = plan_layout(folder, opened.tensors, DTYPES[recipe.dtype] if recipe.dtype else None)
    for file, header in layout.headers.items():
        with file.open("wb") as stream:
            stream.write(header)
            stream.truncate(layout.sizes[file])
    write_beside(opened, folder, layout)
    return folder


@dataclass(frozen=True)
class _Work:
    """What is in progress: a folder `hidden`, and in it what each stage has made, by its key."""

    recipe: StagedRecipe
    hidden: Path
    out: str  # the name of the output
    keys: Mapping[str | None, str]

    @property
    def stages(self) -> dict[str | None, Recipe]:
        """Every stage by its name, the last one's None."""
        return dict(self.recipe.each)

    def folder(self, name: str | None) -> Path:
        """Return where a stage's model lies."""
        return self.hidden / self.keys[name] / (name or self.out)

    def needs(self, name: str | None) -> list[str]:
        """Return the stages that one names as models."""
        return [each for each in dict.fromkeys(named_by(self.stages[name])) if each in self.recipe.stages]

    def clear(self) -> None:
        """Remove what other recipes left."""
        for left in self.hidden.iterdir() if self.hidden.exists() else ():
            if left.name.removesuffix(".json") not in self.keys.values():
                remove(left)

    def note(self, name: str) -> None:
        """Keep what a stage was made of, beside its folder."""
        notes, folder = self._notes(name), self.folder(name)
        if not notes.exists():
            read = {"recipe": read_mapping(folder / _RECIPE, ()), "report": json.loads(_text(folder / _REPORT))}
            write_text(notes, json.dumps(read))

    def drop(self) -> None:
        """Remove the models of stages that no stage needs that is not made."""
        made = {name for name in self.stages if self.folder(name).exists()}
        gone = {name for name in self.recipe.stages if name not in made and self._notes(name).exists()}
        needed = {each for name in self.stages if name not in made | gone for each in self.needs(name)}
        for name in self.recipe.stages:
            if name in made and name not in needed:
                remove(self.folder(name).parent)

    def tell(self) -> None:
        """Tell of the stages, by their names, in the last one's recipe, report and card, as their folders go."""
        last = self.folder(None)
        content, report = read_mapping(last / _RECIPE, ()), self._named(json.loads(_text(last / _REPORT)))
        if "stages" not in content:  # else told before a kill
            stages = {name: self._named(json.loads(_text(self._notes(name)))) for name in self.recipe.stages}
            report["facts"]["stages"] = {name: each["report"] for name, each in stages.items()}
            write_text(last / _REPORT, json.dumps(report, indent=1) + "\n")
            write_text(last / _CARD, self._named(_text(last / _CARD)))
            recipes = {name: each["recipe"] for name, each in stages.items()}
            write_text(last / _RECIPE, write_yaml({"stages": recipes, **self._named(content)}))

    def _notes(self, name: str) -> Path:
        return self.hidden / f"{self.keys[name]}.json"

    def _named(self, content: Any) -> Any:
        """Return a text, or what has texts in it, with stages' names in place of their folders."""
        if isinstance(content, Mapping):
            return {self._named(key): self._named(each) for key, each in content.items()}
        if isinstance(content, list):
            return [self._named(each) for each in content]
        if isinstance(content, str):
            for name in self.recipe.stages:
                content = content.replace(str(self.folder(name)), name)
        return content


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")
