"""A merge from its recipe to its folder: open the models, prepare the method, merge, and say what was done."""

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nmerge_core import __version__
from nmerge_core.checkpoints import absolute, fingerprint, label, labels, open_checkpoint
from nmerge_core.checkpoints.checkpoint import Checkpoint
from nmerge_core.checkpoints.family import mismatches
from nmerge_core.checkpoints.fingerprint import Stamp, stamps
from nmerge_core.checkpoints.header import TensorInfo
from nmerge_core.checkpoints.writer import (
    Layout,
    check_target,
    plan_layout,
    write_companions,
)
from nmerge_core.errors import InputError
from nmerge_core.machine import choose_device, kind_of, peak_memory
from nmerge_core.merging import vary
from nmerge_core.merging.card import model_card
from nmerge_core.merging.context import NEURONS_FOLDER, Context, Facts
from nmerge_core.merging.loop import merge_tensors
from nmerge_core.merging.part import begin, disk_errors, hold, part_of, publish
from nmerge_core.merging.recipe import DTYPES, Recipe, recipe_yaml
from nmerge_core.merging.stream import Stream
from nmerge_core.merging.team import Team, team
from nmerge_core.merging.vocabulary import MergedVocabulary, merged_vocabulary
from nmerge_core.progress import Progress, silent


@dataclass(frozen=True)
class Report:
    """What a merge did: written as nmerge_report.json. Times in seconds, memory and sizes in bytes."""

    version: str
    method: str
    base: Mapping[str, str] | None
    models: list[Mapping[str, str]]
    dtype: str
    tensors: int
    bytes_written: int
    seconds: Mapping[str, float]
    peak_memory: int
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Opened:
    """A recipe whose models were opened from their headers and found to fit together."""

    recipe: Recipe
    stream: Stream
    vocabulary: MergedVocabulary
    stamps: Mapping[Path, Stamp]

    def check_unchanged(self) -> None:
        """Check that the weight files are those that were opened; raises InputError naming the first that is not."""
        for checkpoint in self.stream.checkpoints:
            now = stamps([checkpoint])
            if changed := [file for file, stamp in now.items() if stamp != self.stamps[file]]:
                raise InputError(
                    f"{checkpoint.reference}: {changed[0]} was changed while it was being merged; expected the same "
                    "file from start to end. Run the merge again when nothing writes to it"
                )

    @property
    def tensors(self) -> list[TensorInfo]:
        """The merge's tensors in order of their names, layer 10 after layer 9, whatever the donor's shards."""

        def order(tensor: TensorInfo) -> list[tuple[int, str]]:
            return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", tensor.name)]

        return sorted(map(self.stream.info, self.stream.donor.tensors), key=order)


def open_recipe(recipe: Recipe, device: str = "auto") -> Opened:
    """Open a recipe's models and check that they fit together, from headers alone.

    Raises:
        InputError: a model cannot be opened, or models do not fit together; every reason is listed.
    """
    references = [*([recipe.base_model] if recipe.base_model else []), *recipe.references]
    opened: list[Checkpoint] = []
    reasons = []
    for reference in references:
        try:
            checkpoint = open_checkpoint(reference)
            if opened:
                reasons += mismatches(opened[0], checkpoint := checkpoint.named_like(opened[0]))
            else:
                _ = checkpoint.architecture  # an error where it is not known, before anything is written
            opened.append(checkpoint)
        except InputError as error:
            reasons.append(str(error))
    if reasons:
        listed = "these models cannot be merged:\n  " + "\n  ".join(reasons)
        raise InputError(listed if len(references) > 1 else reasons[0])
    base, models = (opened[0], opened[1:]) if recipe.base_model else (None, opened)
    stream = Stream(base, tuple(models), choose_device(device), differences=recipe.method.needs_base)
    _check_filters(recipe, stream.donor)
    vocabulary = merged_vocabulary(recipe, stream.checkpoints)
    return Opened(recipe, replace(stream, vocabulary=vocabulary.rows), vocabulary, stamps(stream.checkpoints))


def reopen(opened: Opened, recipe: Recipe, device: str = "auto") -> Opened:
    """Open another recipe; where it merges the same models they stay open."""

    def sources(of: Recipe) -> tuple[object, ...]:
        return (of.base_model, of.references, of.method.needs_base, of.tokenizer)

    if sources(opened.recipe) != sources(recipe):
        return open_recipe(recipe, device)
    _check_filters(recipe, opened.stream.donor)
    return replace(opened, recipe=recipe)


def _check_filters(recipe: Recipe, donor: Checkpoint) -> None:
    values = recipe.values()
    for value in (*values.shared.values(), *(own for each in values.each.values() for own in each)):
        for text in vary.filters(value):
            if not any(text in name for name in donor.tensors):
                raise InputError(f"recipe, filter '{text}': expected a part of a tensor's name, found in none of them")


def merge(recipe: Recipe, out: Path, *, device: str = "auto", progress: Progress = silent) -> Report:
    """Merge a recipe's models into a complete checkpoint folder at `out`.

    The folder appears only when it is complete. Work in progress lies beside it in `.<name>.part`; the same recipe goes
    on there after a kill, at the first tensor that was not finished. Among the processes of `accelerate launch` the
    tensors are divided (`team`); `out` is then on a file system that all of them see.

    Raises:
        InputError: the recipe does not fit its models, `out` exists, the disk is full, or a weight is NaN or infinite.
        ProcessLost: another of the processes ended.
    """
    return merge_opened(open_recipe(recipe, device), out, progress)


def merge_opened(opened: Opened, out: Path, progress: Progress = silent) -> Report:
    """Merge an opened recipe as `merge` does."""
    with team() as processes:
        return _merge(opened, out, processes, processes.watching(progress))


def _merge(opened: Opened, out: Path, team: Team, progress: Progress) -> Report:
    started = time.monotonic()
    recipe, stream, vocabulary = opened.recipe, opened.stream, opened.vocabulary
    part = part_of(out)
    layout = plan_layout(part, opened.tensors, DTYPES[recipe.dtype] if recipe.dtype else None)
    if team.first:
        check_target(out, layout.bytes - sum(512 * file.stat().st_blocks for file in layout.sizes if file.exists()))
    with hold(out) if team.first else disk_errors(out):
        context = Context(recipe, stream, tuple(layout.tensors), progress)
        facts = team.told(part, lambda: _prepare(opened, context, layout, part))
        prepared = time.monotonic()
        merge_tensors(context, layout, part, team, facts, progress)
        opened.check_unchanged()
        team.meet(part, progress)
        merged = time.monotonic()
        warnings = [*vocabulary.warnings, *facts.report.get("warnings", ())]
        report = Report(
            version=__version__,
            method=recipe.merge_method,
            base=source(stream.base) if stream.base else None,
            models=[source(model) for model in stream.models],
            dtype=recipe.dtype or "+".join(sorted({tensor.dtype for tensor in layout.tensors.values()})),
            tensors=len(layout.tensors),
            bytes_written=layout.bytes,
            seconds={"prepare": prepared - started, "merge": merged - prepared},
            peak_memory=peak_memory(),
            facts={**facts.report, "warnings": warnings, **vocabulary.report(stream.checkpoints)},
        )
        if team.first:
            write_companions(part, vocabulary.config(stream.donor), vocabulary.tokenizer, layout, recipe.dtype)
            if extension := vocabulary.extension():
                extension.write(part)
            _describe(part, _resolved(recipe, facts), facts, report, stream.donor.config.get("architectures") or ())
            publish(part, out)
        team.dismiss()
    return report


def _prepare(opened: Opened, context: Context, layout: Layout, part: Path) -> Facts:
    """Find what the method has to know first, and make the folder of the work in progress."""
    recipe = opened.recipe
    opened.vocabulary.extension()  # an error of it comes before the work
    facts: Facts = recipe.method.prepare(context, recipe.values()) if recipe.method.prepare else Facts()
    begin(part, layout, _identity(opened, _resolved(recipe, facts), facts))
    return facts


def _identity(opened: Opened, resolved: Recipe, facts: Facts) -> str:
    """Name everything that decides the output's bytes."""
    groups = "" if facts.categories is None else facts.categories.to_csv(index=False)
    sources = [fingerprint(model) for model in (opened.stream.donor, *opened.stream.models)]
    tokens = opened.vocabulary.rows.digest if opened.vocabulary.rows else ""
    times = sorted(opened.stamps.values())  # fingerprints sample large files
    read = [recipe_yaml(resolved), sources, times, groups, facts.inputs, tokens]
    content = json.dumps([__version__, kind_of(opened.stream.device), *read])
    return hashlib.sha256(content.encode()).hexdigest()


def _resolved(recipe: Recipe, facts: Facts) -> Recipe:
    """Fill in what was solved, and name local folders in full, so that the recipe can be run from anywhere."""
    base = absolute(recipe.base_model) if recipe.base_model else None
    solved = recipe.with_parameters(**facts.solved).with_each(**facts.solved_each)
    values = solved.values()
    paths = {
        parameter.name: absolute(value)
        for parameter in recipe.method.parameters
        if parameter.kind == "path" and (value := values.shared.get(parameter.name)) and value != NEURONS_FOLDER
    }
    entries = tuple(replace(entry, model=absolute(entry.model)) for entry in solved.models)
    tokenizer = recipe.tokenizer.renamed(absolute) if recipe.tokenizer else None
    return replace(solved.with_parameters(**paths), models=entries, base_model=base, tokenizer=tokenizer)


def source(checkpoint: Checkpoint) -> dict[str, str]:
    """Return what a report says of a model it was made of."""
    return {"model": checkpoint.reference, "label": label(checkpoint.reference), "fingerprint": fingerprint(checkpoint)}


def _describe(part: Path, resolved: Recipe, facts: Facts, report: Report, architectures: Sequence[str]) -> None:
    (part / "nmerge_recipe.yaml").write_text(recipe_yaml(resolved), encoding="utf-8")
    (part / "nmerge_report.json").write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
    names = labels(resolved.references)
    (part / "README.md").write_text(model_card(resolved, names, report.version, architectures), encoding="utf-8")
    if facts.categories is not None:
        (part / NEURONS_FOLDER).mkdir(exist_ok=True)
        facts.categories.to_parquet(part / NEURONS_FOLDER / "neurons.parquet", index=False)
