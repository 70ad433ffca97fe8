"""Scoring one loaded model with neurons off, many sets of them: on a task, or by the loss on held-out texts."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nmerge_core.ablation.conditions import Neurons, key_of
from nmerge_core.activations.hooks import knock_out
from nmerge_core.corpus.held_out import held_out
from nmerge_core.errors import InputError
from nmerge_core.evaluation.loss import text_losses
from nmerge_core.evaluation.scores import Evaluator
from nmerge_core.files.kept_files import reading
from nmerge_core.loading import LanguageModel
from nmerge_core.progress import Progress

LOSS = "loss"
JOURNAL = "measured.jsonl"  # a line per set of neurons that was off
_STAGE = "knocking out neurons"


@dataclass(frozen=True)
class Reading:
    """A metric of a model, and its value for each problem alone; none where it is of all together."""

    value: float
    higher_is_better: bool
    problems: list[float]
    clusters: list[str] | None = None  # the document of each problem, where problems share them


Readings = dict[str, Reading]  # by metric, the primary one first
Scale = Callable[[LanguageModel, Progress], Readings]


def open_scale(
    task: str | None, loss: str | None, limit: int | None, *, run_code: bool, allow_task_code: bool
) -> Scale:
    """Return what a model is scored by: a task, or the loss on a corpus's held-out texts.

    By loss the metrics are "loss", of all texts, and "CATEGORY/loss".

    Raises:
        InputError: neither or both are given, or it cannot be loaded.
    """
    if task and not loss:
        return _on_task(Evaluator([task], limit=limit, run_code=run_code, allow_task_code=allow_task_code))
    if loss and not task:
        return _by_loss(loss, limit)
    found = "both" if task else "neither"
    raise InputError(f"expected a task, or by `loss` a corpus whose held-out texts are read; found {found}")


def _on_task(evaluator: Evaluator) -> Scale:
    def score(language_model: LanguageModel, told: Progress) -> Readings:
        found = evaluator.scored(language_model, told)
        readings: Readings = {}
        alone = found.table[~found.table["group"]]  # of a group of tasks its members, and not the group once more
        for name, rows in alone.groupby("metric", sort=False):
            metric, _, chain = str(name).partition(",")  # with the filter that it is taken behind, of several
            own = [each for each in found.samples if metric in each["metrics"] and chain in ("", each["filter"])]
            values, clusters = [each["metrics"][metric] for each in own], [each["cluster"] for each in own]
            readings[str(name)] = Reading(
                float(np.average(rows["value"], weights=rows["samples"])),  # over their problems
                bool(rows["higher_is_better"].all()),
                [] if None in values else values,
                None if None in clusters else clusters,
            )
        return readings

    return score


def _by_loss(corpus: str, limit: int | None) -> Scale:
    found = held_out(corpus).corpus
    texts = {
        name: [each.text for each in found.exemplars if each.category == name][:limit] for name in found.categories
    }

    def score(language_model: LanguageModel, told: Progress) -> Readings:
        every = [text for own in texts.values() for text in own]
        nats = [each.nats for each in text_losses(language_model, every, progress=told)]
        readings, first = {LOSS: _mean(nats)}, 0
        for name, own in texts.items():
            readings[f"{name}/{LOSS}"] = _mean(nats[first : first + len(own)])
            first += len(own)
        return readings

    return score


def _mean(nats: list[float]) -> Reading:
    return Reading(sum(nats) / len(nats), False, nats)


def measure(
    language_model: LanguageModel, scale: Scale, conditions: Sequence[Neurons], folder: Path, progress: Progress
) -> list[Readings]:
    """Score a model once for each set of neurons, with these off; equal sets are scored once.

    What is measured is written down in `folder` at once, so that the same call goes on after the last.
    """
    distinct = {key_of(neurons): neurons for neurons in conditions}
    journal, total = folder / JOURNAL, len(distinct)
    known = _read(journal)
    for number, (key, neurons) in enumerate(distinct.items()):
        if key in known:
            continue
        with knock_out(language_model.model, language_model.architecture, neurons):
            known[key] = scale(language_model, _within(number, total, progress))
        _append(journal, key, known[key])
    progress(_STAGE, total, total, "measurements")
    return [known[key_of(neurons)] for neurons in conditions]


def _within(number: int, measurements: int, progress: Progress) -> Progress:
    """Count what a measurement tells of itself as a part of it."""

    def tell(stage: str, done: float, total: float, unit: str = "") -> None:
        progress(_STAGE, number + min(0.99, done / max(total, 1)), measurements, "measurements")

    return tell


def _append(journal: Path, key: str, readings: Mapping[str, Reading]) -> None:
    line = json.dumps({"off": key, "readings": {name: asdict(each) for name, each in readings.items()}})
    with journal.open("a", encoding="utf-8") as file:
        file.write(f"\n{line}")  # on a line of its own, whatever a process that was killed has left
        file.flush()
        os.fsync(file.fileno())


def _read(journal: Path) -> dict[str, Readings]:
    """Return what was measured before; a line that is not as it was written, to its end, is passed over."""
    found: dict[str, Readings] = {}
    if not journal.exists():
        return found
    with reading(journal):
        lines = journal.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines:
        with suppress(ValueError, TypeError, KeyError, AttributeError):
            entry = json.loads(line)
            found[entry["off"]] = {name: Reading(**each) for name, each in entry["readings"].items()}
    return found
