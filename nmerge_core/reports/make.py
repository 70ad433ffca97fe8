"""Making a report: measure what the family allows, then write what was found, also where it was stopped."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nmerge_core.cache import cache_root
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.checkpoints.tokenizer import load_tokenizer
from nmerge_core.corpus.corpus import GENERAL
from nmerge_core.errors import InputError
from nmerge_core.family import Family
from nmerge_core.inputs import Places
from nmerge_core.kinds import SEQ2SEQ, kind_of
from nmerge_core.labelling.tables import open_labels
from nmerge_core.merging.plan.kept import Kept, nothing_kept
from nmerge_core.number_format import choose_format
from nmerge_core.progress import Progress, silent
from nmerge_core.reports.budget import BUDGETS
from nmerge_core.reports.findings import T5, VISION, WRITING, Findings
from nmerge_core.reports.measure import measure
from nmerge_core.reports.measuring import Measuring
from nmerge_core.reports.parameter import content_of, fingerprints
from nmerge_core.reports.parts import Parts, alone, begin
from nmerge_core.reports.subjects import Score, Subject, open_subjects
from nmerge_core.reports.write import call_of, is_written, write
from nmerge_core.task_yaml.code import runs_code

_TOGETHER = (
    "Methods that go by texts of each fine-tune's category are left out, as several fine-tunes are of one category, or "
    f"one is of {GENERAL}: give each its own."
)


def make_report(
    family: Family,
    out: Path,
    *,
    budget: str = "quick",
    run_code: bool = False,
    allow_task_code: bool = False,
    device: str = "auto",
    in_cache: bool = False,
    labelled: Path | None = None,
    progress: Progress = silent,
    kept: Kept = nothing_kept,
) -> None:
    """Write index.html, report.ipynb and tables/*.csv into a folder, and keep what was measured in its parts.

    The same call goes on where it was stopped, and measures anew what reads an input that was changed since. Stopped,
    it leaves a report of what there is. One that lies `in_cache` is a run's, which its notebook finds again by itself.
    `labelled` is the folder of a labelling of the base's neurons, where there is one.

    Raises:
        InputError: a model, the corpus or a task cannot be read, or `out` holds something else, or another process
            makes the report there.
    """
    places = Places(cache_root())
    prints = fingerprints(family, places)
    changed = begin(out, content_of(family), prints)
    notes = [f"{name} was changed since this report was begun: what reads it was measured anew." for name in changed]
    for note in notes:
        logging.warning(note)
    chosen = BUDGETS[budget]
    kind = _kind(family.base)
    judged = family if kind == WRITING else replace(family, corpus=None)  # the loss on texts is of causal models
    scores, lack = subjects_of(judged, chosen.problems, places, run_code, allow_task_code)
    notes += [lack] if lack else []
    categories = [model.category for model in family.models]
    named = [category for category in categories if category]
    apart = len(set(named)) == len(named) and GENERAL not in named
    notes += [] if apart or not family.corpus else [_TOGETHER]
    texts = kind == WRITING and bool(family.corpus) and all(categories) and apart
    tasks = any(subject.task for subject, _ in scores)
    labels = open_labels(labelled) if labelled else None
    lacks = {} if apart else {"neurons": _TOGETHER}
    if kind != WRITING:
        lacks |= {"neurons": f"NeuronMerge's coefficients are solved of causal language models; these are {kind}."}
        notes += [
            "Linearity is measured, and methods that go by linearity or by texts are used, of causal language models "
            f"alone; these are {kind}."
        ]
        unjudged = f"This family names no tasks: there is nothing to judge {kind} by."
        lacks |= {} if scores else dict.fromkeys(("scores", "knockout", "times"), unjudged)
    if scores and kind != VISION and (unread := _unread(family.base)):
        scores, lacks = [], lacks | dict.fromkeys(("scores", "knockout", "times"), unread)
    found = Findings(family, chosen, texts, tasks, kind, labels=labels, lacks=lacks, notes=tuple(notes))
    runs_in = choose_format(open_checkpoint(family.base), "auto", device).name
    # The fingerprint of lm-eval's own tasks is its version, so that their names alone tell them apart.
    by_name = {task: f"{Path(task).name} {prints[task]}" for task in family.tasks}
    parts = Parts(out / "parts", prints | by_name, runs_in)
    report = Measuring(found, scores, parts, places, device, run_code, kept, progress)
    call = call_of(family, budget, run_code, allow_task_code, None if in_cache else out)
    complete = False
    with alone(out):
        try:
            measure(report)
            complete = True
        finally:
            read = prints | ({"labels": str(labelled)} if labelled else {})
            if parts.made or not complete or not is_written(out, call, read):
                write(report.found, out, call, read, complete=complete)


def _kind(base: str) -> str:
    """Return what the models of a base are, as the papers' tables tell them apart."""
    try:
        kind = kind_of(open_checkpoint(base))
    except InputError:  # one that is merged and not run
        return WRITING
    return T5 if kind is SEQ2SEQ else VISION if kind.sees_images else WRITING


def _unread(base: str) -> str:
    """Say why models of a base read no texts; empty where they do."""
    try:
        load_tokenizer(open_checkpoint(base))
    except InputError as error:
        return f"No model of this family can be scored: {error}."
    return ""


def subjects_of(
    family: Family, problems: int, places: Places, run_code: bool, allow_task_code: bool
) -> tuple[Sequence[tuple[Subject, Score]], str]:
    """Return what models are judged by, and what has to be said of the choice.

    Where a task runs what models write and that is not allowed, that is the loss on the corpus's held-out texts.
    """
    running = [task for task in family.tasks if runs_code(task)]
    if running and not run_code and family.corpus:
        family = replace(family, tasks=())
        lack = (
            f"The task {', '.join(running)} runs what models write, which was not switched on (Run generated code on "
            "the page, --run-code in a command): models are judged by their loss on held-out texts of the corpus in "
            "place of tasks."
        )
        return open_subjects(family, problems, places, run_code=False, allow_task_code=False), lack
    return open_subjects(family, problems, places, run_code=run_code, allow_task_code=allow_task_code), ""
