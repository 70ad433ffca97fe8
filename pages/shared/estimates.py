"""How long a run will take, told before it is started: to the nearest order, from what it reads and what runs took."""

from collections.abc import Mapping, Sequence
from os.path import expanduser
from pathlib import Path
from typing import Any

from nmerge_core.cache import cache_root
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.corpus import corpus_files, whole_and_slice
from nmerge_core.errors import InputError
from nmerge_core.figures import style
from nmerge_core.machine import cores
from nmerge_core.runs.folder import list_runs

START = 5.0  # seconds until a worker has loaded a model and begins
OPERATIONS_PER_SECOND = 1.5e10  # of one core, in float32, running a model; an accelerator has many times as many
BYTES_PER_TOKEN = 4
TOKENS_PER_PROBLEM = 150  # read and written, of a task's problem
TELLING = 10.0  # seconds from which on a run tells more of the machine's speed than of its start


def told_time(kind: str, asked: Sequence[Mapping[str, Any]]) -> str:
    """How long runs of one kind take together, as the end of a sentence; empty where that cannot be told."""
    try:
        operations = sum(_operations(kind, parameters) for parameters in asked)
    except InputError:
        return ""
    told = style.roughly(START + operations / _speed())
    return f", {told} in all" if len(asked) > 1 else f", {told}"


def _speed() -> float:
    """Operations a second, as the newest run that was long enough has shown; else as a processor has."""
    for run in list_runs(cache_root()):
        status = run.status()
        if run.kind in _OPERATIONS and status.state == "done" and status.started:
            if (seconds := status.updated - status.started) > TELLING:
                try:
                    return _operations(run.kind, run.parameters) / seconds
                except InputError:  # what it has read is gone
                    continue
    return OPERATIONS_PER_SECOND * cores()


def _operations(kind: str, parameters: Mapping[str, Any]) -> float:
    """Multiplications and additions: two per parameter and token."""
    return 2.0 * _entries(parameters["model"]) * _OPERATIONS[kind](parameters)


def _entries(model: str) -> int:
    return sum(tensor.elements for tensor in open_checkpoint(model).tensors.values())


def _classify_tokens(parameters: Mapping[str, Any]) -> float:
    whole, _ = whole_and_slice(parameters["corpus"])
    folder = Path(expanduser(whole))
    if not folder.is_dir():  # a YAML of sources, whose texts may not be here yet
        raise InputError(f"{whole}: its size is not known")
    return sum(file.stat().st_size for file in corpus_files(folder)) / BYTES_PER_TOKEN


def _knockout_tokens(parameters: Mapping[str, Any]) -> float:
    return measurements(parameters) * (parameters["limit"] or 0) * TOKENS_PER_PROBLEM


def measurements(parameters: Mapping[str, Any]) -> int:
    """How often a knock-out scores its model: intact, then with each share of the category and of each control off."""
    return 1 + len(parameters["proportions"]) * (1 + parameters["repeats"])


_OPERATIONS = {"classify": _classify_tokens, "knockout": _knockout_tokens}
