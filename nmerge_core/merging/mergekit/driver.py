"""Merging by mergekit in a process of its own, under our checks, into a checkpoint like any other of ours."""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

from nmerge_core.checkpoints import Checkpoint, absolute, halves, labels, open_checkpoint, resolve
from nmerge_core.checkpoints.adapter_config import ADAPTER_CONFIG
from nmerge_core.checkpoints.compatibility import mismatches
from nmerge_core.checkpoints.conversation import told_differences
from nmerge_core.checkpoints.matching import as_family
from nmerge_core.checkpoints.writer import check_target, existing_parent
from nmerge_core.errors import InputError
from nmerge_core.machine import choose_device
from nmerge_core.merging.mergekit.checks import check_finite, check_read_alike, check_rows
from nmerge_core.merging.mergekit.process import MergekitProcess, Plan
from nmerge_core.merging.plan.merged_vocabulary import by_position
from nmerge_core.merging.recipe.mergekit_recipe import ENGINE, MergekitRecipe
from nmerge_core.merging.write.card import compose
from nmerge_core.merging.write.report import Report, source
from nmerge_core.progress import Progress, silent
from nmerge_core.version import __version__


@dataclass(frozen=True)
class Sources:
    """The models of a recipe, opened from their headers; the donor gives configuration and tokenizer."""

    base: Checkpoint | None
    models: tuple[Checkpoint, ...]
    warnings: tuple[str, ...] = ()

    @property
    def donor(self) -> Checkpoint:
        """The base, else the first model."""
        return self.base or self.models[0]


def plan(recipe: MergekitRecipe, out: Path, progress: Progress = silent) -> Plan:
    """Check a recipe as `merge` does before it starts, and return what mergekit would do; adapters are merged for it.

    Raises:
        InputError: as `merge`.
    """
    opened = _open(recipe)
    with _planned(recipe, out, "cpu", progress) as child:
        check_target(out, child.plan.bytes_written)
        return replace(child.plan, warnings=opened.warnings)


def merge(recipe: MergekitRecipe, out: Path, *, device: str = "auto", progress: Progress = silent) -> Report:
    """Let mergekit merge a recipe's models into a complete checkpoint folder at `out`, which appears when it is done.

    Its memory is that of a process of its own, which ends with this call, however it ends. Nothing is resumed.

    Raises:
        InputError: the recipe does not fit mergekit or its models, `out` exists, or the disk is full.
        RuntimeError: mergekit failed; the message ends in what it printed.
    """
    started = time.monotonic()
    check_target(out, 0)
    opened = _open(recipe)
    with _planned(recipe, out, choose_device(device), progress) as child:
        check_target(out, child.plan.bytes_written)
        planned = time.monotonic()
        shutil.rmtree(child.part, ignore_errors=True)  # of a merge that was killed
        try:
            peak = child.merge()
            seconds = {"prepare": planned - started, "merge": time.monotonic() - planned}
            report = _describe(child.part, recipe, opened, seconds, peak)
            os.replace(child.part, out)
        except BaseException:
            child.close()  # else it would go on writing into what is removed
            shutil.rmtree(child.part, ignore_errors=True)
            raise
    return report


def _open(recipe: MergekitRecipe) -> Sources:
    base = open_checkpoint(recipe.base_model) if recipe.base_model else None
    opened = Sources(base, tuple(map(open_checkpoint, recipe.references)))
    for model in (base, *opened.models) if base else opened.models:
        check_read_alike(model)
    if "models" in recipe.given:  # slices may be of models that differ
        donor, *models = as_family(opened.donor, [model for model in opened.models if model is not opened.donor])
        if reasons := [reason for model in models for reason in mismatches(donor, model)]:
            raise InputError("these models cannot be merged:\n  " + "\n  ".join(reasons))
        warnings = tuple(
            f"{names}: {told}; mergekit's merge has the base's unless the recipe's 'chat_template' says otherwise"
            for names, told in told_differences([opened.donor, *models])
        )
        if not (recipe.given.get("tokenizer") or recipe.given.get("tokenizer_source")):
            check_rows(donor, models)
            warnings = (*by_position(donor, models), *warnings)
        return replace(opened, warnings=warnings)
    return opened


def _local(reference: str) -> str:
    """Return the folders of a model and its adapter as mergekit reads them; it would ask the Hub for an id."""
    model, *adapter = halves(reference)
    folders = [resolve(model), *(resolve(each, ADAPTER_CONFIG) for each in adapter)]
    for folder in folders:
        if re.search("[+@]", str(folder.absolute())):
            raise InputError(f"{folder}: mergekit takes '+' and '@' in a path for an adapter or a revision; rename it")
    return "+".join(str(folder.absolute()) for folder in folders)


@contextmanager
def _planned(recipe: MergekitRecipe, out: Path, device: str, progress: Progress) -> Iterator[MergekitProcess]:
    """Start mergekit on a recipe and have it plan; it ends with the context."""
    content = recipe.renamed(_local).given
    adapters = existing_parent(out) / f".{out.name}.adapters"  # what mergekit merges of MODEL+ADAPTER; it may be large
    shutil.rmtree(adapters, ignore_errors=True)  # of a merge that was killed
    options = {"device": device, "random_seed": recipe.seed, "lora_merge_cache": str(adapters)}
    options |= {"clone_tensors": True, "write_model_card": False}  # layers may stand twice in slices
    child = MergekitProcess(out.absolute().parent / f".{out.name}.part", progress)
    try:
        child.start(content, options)
        yield child
    finally:
        child.close()
        shutil.rmtree(adapters, ignore_errors=True)


def _describe(part: Path, recipe: MergekitRecipe, opened: Sources, seconds: dict[str, float], peak: int) -> Report:
    """Write report, recipe and card beside what mergekit wrote, once that opens as a checkpoint."""
    generation = opened.donor.folder / "generation_config.json"
    if generation.exists() and not (part / generation.name).exists():
        shutil.copyfile(generation, part / generation.name)
    written = open_checkpoint(str(part))
    check_finite(written)
    for file in written.files:  # safetensors lets nobody else read what it writes
        file.chmod((part / "config.json").stat().st_mode)
    lost = (opened.donor.folder / "tokenizer_config.json").exists() and not (part / "tokenizer_config.json").exists()
    resolved = recipe.renamed(absolute)
    report = Report(
        version=__version__,
        method=recipe.merge_method,
        base=source(opened.base) if opened.base else None,
        models=[source(model) for model in opened.models],
        dtype="+".join(sorted({tensor.dtype for tensor in written.tensors.values()})),
        tensors=len(written.tensors),
        bytes_written=sum(file.stat().st_size for file in written.files),
        seconds=seconds,
        peak_memory=peak,
        results=[],
        facts={
            "engine": {package: version(package) for package in (ENGINE, "torch", "transformers")},
            "warnings": [
                *opened.warnings,
                *(["mergekit wrote no tokenizer: copy one into the folder"] if lost else []),
            ],
        },
    )
    (part / "nmerge_recipe.yaml").write_text(resolved.yaml, encoding="utf-8")
    (part / "nmerge_report.json").write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
    card = compose(
        f"merged by {recipe.merge_method}",
        f"Made by {ENGINE} {version(ENGINE)}, its method `{recipe.merge_method}`, with NMerge {__version__}.",
        resolved.base_model,
        list(zip(labels(resolved.references), resolved.references, strict=True)),
        resolved.yaml,
        written.config.get("architectures") or (),
    )
    (part / "README.md").write_text(card, encoding="utf-8")
    return report
