"""Merging by mergekit in a process of its own, under our checks, into a checkpoint like any other of ours."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any

from nmerge_core import __version__
from nmerge_core.cache import PROJECT
from nmerge_core.checkpoints import Checkpoint, absolute, halves, labels, open_checkpoint, resolve
from nmerge_core.checkpoints.adapter_config import ADAPTER_CONFIG
from nmerge_core.checkpoints.family import mismatches
from nmerge_core.checkpoints.writer import check_target, existing_parent
from nmerge_core.errors import InputError
from nmerge_core.machine import choose_device
from nmerge_core.merging.card import compose
from nmerge_core.merging.mergekit import ENGINE, MergekitRecipe
from nmerge_core.merging.run import Report, source
from nmerge_core.merging.vocabulary import by_position
from nmerge_core.progress import Progress, silent

_BAR = re.compile(r"Executing graph:\s+\d+%.*\| (\d+)/(\d+) ")  # tqdm's, of mergekit's one long loop
_LINES = 200  # of mergekit's output that are kept for its failure
_LOOK_SECONDS = 0.2  # between reports of progress, where a cancel is heeded


@dataclass(frozen=True)
class Plan:
    """What mergekit will do, told from headers; sizes in bytes, tokens that a tokenizer adds not among them."""

    tensors: int
    parameters: int
    bytes_read: int
    bytes_written: int


@dataclass(frozen=True)
class Opened:
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
    _open(recipe)
    with _planned(recipe, out, "cpu", progress) as child:
        check_target(out, child.plan.bytes_written)
        return child.plan


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
    with _planned(recipe, out, str(choose_device(device)), progress) as child:
        check_target(out, child.plan.bytes_written)
        planned = time.monotonic()
        shutil.rmtree(child.part, ignore_errors=True)  # of a merge that was killed
        try:
            peak = child.merge()
            seconds = {"prepare": planned - started, "merge": time.monotonic() - planned}
            report = _describe(child.part, recipe, opened, seconds, peak)
            os.replace(child.part, out)
        except BaseException:
            shutil.rmtree(child.part, ignore_errors=True)
            raise
    return report


def _open(recipe: MergekitRecipe) -> Opened:
    base = open_checkpoint(recipe.base_model) if recipe.base_model else None
    opened = Opened(base, tuple(map(open_checkpoint, recipe.references)))
    if "models" in recipe.content:  # slices may be of models that differ
        models = [model.named_like(opened.donor) for model in opened.models if model is not opened.donor]
        if reasons := [reason for model in models for reason in mismatches(opened.donor, model)]:
            raise InputError("these models cannot be merged:\n  " + "\n  ".join(reasons))
        if not (recipe.content.get("tokenizer") or recipe.content.get("tokenizer_source")):
            return replace(opened, warnings=by_position(opened.donor, models))
    return opened


def _local(reference: str) -> str:
    """Return the folders of a model and its adapter as mergekit reads them; it would ask the Hub for an id."""
    model, *adapter = halves(reference)
    folders = [resolve(model), *(resolve(each, ADAPTER_CONFIG) for each in adapter)]
    for folder in folders:
        if re.search("[+@]", str(folder.absolute())):
            raise InputError(f"{folder}: mergekit takes '+' and '@' in a path for an adapter or a revision; rename it")
    return "+".join(str(folder.absolute()) for folder in folders)


class _Child:
    """The process that mergekit runs in (`mergekit_child`)."""

    plan: Plan

    def __init__(self, part: Path, progress: Progress) -> None:
        self.part, self._progress = part, progress
        path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "nmerge_core.merging.mergekit_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # an interrupt of the terminal is ours to pass on
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1"},
        )
        self._stage: tuple[str, float, float, str] = ("Planning in mergekit", 0, 1, "")
        self._answers: SimpleQueue[str] = SimpleQueue()
        self._printed: deque[str] = deque(maxlen=_LINES)
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_answers, self._read_output)]
        for reader in self._readers:
            reader.start()

    def start(self, content: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        """Have mergekit plan; raises InputError where the recipe or the models are wrong."""
        self._send({"content": content, "options": options, "out": str(self.part)})
        self.plan = Plan(**self._answer())

    def merge(self) -> int:
        """Let the planned merge go on to its end; return the peak memory of the process in bytes."""
        self._stage = ("Merging in mergekit", 0, 1, "steps")
        self._send({"go": True})
        peak: int = self._answer()["peak_memory"]
        _, _, total, unit = self._stage
        self._progress("Merging in mergekit", total, total, unit)
        return peak

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        for reader in self._readers:
            reader.join()
        with self._process:  # waits for it, and closes its pipes
            pass

    def _send(self, content: dict[str, Any]) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(content) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # it failed early, as its answer says
            pass

    def _answer(self) -> dict[str, Any]:
        while True:
            self._progress(*self._stage)
            try:
                line = self._answers.get(timeout=_LOOK_SECONDS)
            except Empty:
                continue
            if not line:
                raise self._failure()
            answer: dict[str, Any] = json.loads(line)
            if "error" in answer:
                raise InputError(f"recipe (mergekit): {answer['error']}")
            return answer

    def _read_answers(self) -> None:
        for line in self._process.stdout or ():
            self._answers.put(line)
        self._answers.put("")

    def _read_output(self) -> None:
        for line in self._process.stderr or ():  # text mode ends a line at tqdm's carriage return too
            if bar := _BAR.search(line):
                done, total = int(bar[1]), int(bar[2])
                # The last step counts when the process has ended: files are written after the loop.
                self._stage = ("Merging in mergekit", min(done, total - 1), total, "steps")
            elif line.strip():
                self._printed.append(line)

    def _failure(self) -> Exception:
        status = self._process.wait()
        self._readers[1].join()
        printed = "".join(self._printed)
        if "No space left on device" in printed:
            return InputError(f"{self.part.parent}: the disk is full; nothing was left there")
        if status < 0:
            return RuntimeError(f"mergekit was killed by signal {-status}, most likely for lack of memory\n{printed}")
        last = self._printed[-1].strip() if self._printed else f"exit status {status}"
        return RuntimeError(f"mergekit failed: {last}\n{printed}")


@contextmanager
def _planned(recipe: MergekitRecipe, out: Path, device: str, progress: Progress) -> Iterator[_Child]:
    """Start mergekit on a recipe and have it plan; it ends with the context."""
    adapted = any(len(halves(name)) > 1 for name in recipe.references)
    folder = TemporaryDirectory(prefix=f".{out.name}.", dir=existing_parent(out)) if adapted else nullcontext()
    with folder as merged_adapters:
        options = {"device": device, "random_seed": recipe.seed, "lora_merge_cache": merged_adapters}
        options |= {"clone_tensors": True, "write_model_card": False}  # layers may stand twice in slices
        content = recipe.renamed(_local).content
        child = _Child(out.absolute().parent / f".{out.name}.part", progress)
        try:
            child.start(content, options)
            yield child
        finally:
            child.close()


def _describe(part: Path, recipe: MergekitRecipe, opened: Opened, seconds: dict[str, float], peak: int) -> Report:
    """Write report, recipe and card beside what mergekit wrote, once that opens as a checkpoint."""
    generation = opened.donor.folder / "generation_config.json"
    if generation.exists() and not (part / generation.name).exists():
        shutil.copyfile(generation, part / generation.name)
    written = open_checkpoint(str(part))
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
        facts={
            "engine": {package: version(package) for package in (ENGINE, "torch", "transformers")},
            "warnings": [
                *opened.warnings,
                *(["mergekit wrote no tokenizer: copy one into the folder"] if lost else []),
            ],
        },
    )
    (part / "nmerge_recipe.yaml").write_text(resolved.yaml(), encoding="utf-8")
    (part / "nmerge_report.json").write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")
    card = compose(
        f"merged by {recipe.merge_method}",
        f"Made by {ENGINE} {version(ENGINE)}, its method `{recipe.merge_method}`, with NMerge {__version__}.",
        resolved.base_model,
        list(zip(labels(resolved.references), resolved.references, strict=True)),
        resolved.yaml(),
        written.config.get("architectures") or (),
    )
    (part / "README.md").write_text(card, encoding="utf-8")
    return report
