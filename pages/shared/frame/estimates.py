"""How long a run will take, told before it is started where runs on this machine tell: to the nearest order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path
from typing import Any

from nmerge_core.activations.store import open_classification
from nmerge_core.cache import cache_root, task_data, task_file
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.comparison.score_tables import primary
from nmerge_core.corpus.corpus import corpus_files, whole_and_slice
from nmerge_core.corpus.held_out import held_out
from nmerge_core.errors import InputError
from nmerge_core.figures import style
from nmerge_core.machine import cores
from nmerge_core.runs.durations import report_seconds
from nmerge_core.runs.folder import Run, list_runs
from nmerge_core.task_yaml.files import task_files
from pages.shared.frame.results import read_table
from pages.shared.frame.tasks import task_name

START = 5.0  # seconds until a worker has loaded a model and begins
OPERATIONS_PER_SECOND = 1.5e10  # of one core, in float32, running a model; an accelerator has many times as many
BYTES_PER_TOKEN = 4
TOKENS_PER_PROBLEM = 150  # read and written, of a task's problem
TELLING = 10.0  # seconds from which on a run tells more of the machine's speed than of its start
UNKNOWN = "how long it takes is told once it has begun"
_ALIKE = 10  # times as large a model may be of whose scores the time of another's is told


def told_time(kind: str, asked: Sequence[Mapping[str, Any]], times: int = 1) -> str:
    """How long runs of one kind take together, so many `times`, as the end of a sentence; empty if nobody can know."""
    try:
        operations = times * sum(_operations(kind, parameters) for parameters in asked)
    except InputError:
        return ""
    speed = _speed(kind, asked[0])
    if speed is None:
        return f"; {UNKNOWN}"
    told = style.roughly(START + operations / speed)
    return f", {told} in all" if len(asked) * times > 1 else f", {told}"


def told_scoring(asked: Sequence[Mapping[str, Any]], times: int = 1) -> str:
    """How long it takes to score models, so many `times`, as a sentence: told from the last scores on this machine."""
    known, in_all = _scored(), " in all" if len(asked) * times > 1 else ""
    try:
        problems = [_problems(parameters, known) for parameters in asked]
        work = [_entries(p["models"][0]) * number * times for p, number in zip(asked, problems, strict=True) if number]
    except InputError:
        work = []
    alike = [score for score in known if work and score.is_of_size(_entries(asked[0]["models"][0]))]
    if len(work) < len(asked) or not alike:
        return f"{UNKNOWN.capitalize()}."
    last = next((score for score in alike if score.tasks.keys() == set(asked[0]["tasks"])), alike[0])
    return f"It takes {style.roughly(sum(work) * last.seconds_per_work)}{in_all}."


def told_reports(asked: Sequence[Mapping[str, Any]]) -> str:
    """How long a report takes by each budget, as a sentence."""
    try:
        told = [f"{parameters['budget']} {style.roughly(report_seconds(parameters))}" for parameters in asked]
    except InputError:
        return "How long it takes is told while it goes on."
    return f"Time: {', '.join(told)}."


@dataclass(frozen=True)
class _Score:
    """A finished scoring: the problems of each task, if they are all it has, and its time per parameter and problem.

    `entries` are the parameters of one model.
    """

    tasks: Mapping[str, int]
    whole: Mapping[str, bool]
    seconds_per_work: float
    entries: float

    def is_of_size(self, entries: int) -> bool:
        """Whether it tells of models so large: of much smaller ones all time goes by the problem, not the parameter."""
        return max(entries, self.entries) <= _ALIKE * min(entries, self.entries)


def _scored() -> list[_Score]:
    """The scorings of this machine, the newest first."""
    found = []
    for run in list_runs(cache_root()):
        status = run.status()
        if run.kind != "evaluate" or status.state != "done" or not status.seconds:
            continue
        limit = run.parameters["limit"]
        try:
            entries = sum(map(_entries, run.parameters["models"]))
            scores = read_table(run, "scores.csv")
        except InputError:  # what it has read is gone, or its scores are
            continue
        rows = scores.groupby("task")["samples"].max()
        names = {task_name(task): task for task in run.parameters["tasks"]}
        tasks = {names[name]: int(number) for name, number in rows.items() if name in names}
        whole = {task: limit is None or number < limit for task, number in tasks.items()}
        if tasks:
            work = entries * int(rows[primary(scores)["task"].unique()].sum())
            found.append(_Score(tasks, whole, status.seconds / work, entries / len(run.parameters["models"])))
    return found


def _problems(parameters: Mapping[str, Any], known: Sequence[_Score]) -> int | None:
    """How many problems a model is scored on; None where neither a score nor a file tells how many a task has."""
    total = 0
    for task in parameters["tasks"]:
        whole = next((score.tasks[task] for score in known if score.whole.get(task)), None)
        counts = [number for number in (whole or _lines(task), parameters["limit"]) if number]
        if not counts:
            return None
        total += min(counts)
    return total


def _lines(task: str) -> int:
    """How many problems the JSON Lines have that a task reads; 0 where it reads none on this machine."""
    _, data = task_data(task)
    file = task_file(task, cache_root())
    files = [Path(expanduser(data))] if data else task_files([file]) if file else []
    return sum(len(each.read_bytes().splitlines()) for each in files if each.suffix == ".jsonl" and each.is_file())


def _speed(kind: str, parameters: Mapping[str, Any]) -> float | None:
    """Operations a second, as the newest run has shown that was long enough and read the same; of texts, any texts.

    A problem of a task may take many times as long as a text of as many tokens: its speed is that of scores on it.
    None where nothing tells; of a classification, which reads each text once, what a processor does.
    """
    task = parameters.get("task")
    for run in sorted(_finished(), key=lambda run: _read_by(run.parameters) != _read_by(parameters)):
        status = run.status()
        seconds = status.updated - (status.started or status.updated)
        if seconds > TELLING and run.parameters.get("task") == task:
            try:
                return _operations(run.kind, run.parameters) / seconds
            except InputError:  # what it has read is gone
                continue
    if task:
        scores = sorted((each for each in _scored() if task in each.tasks), key=lambda each: len(each.tasks))
        return 2.0 * TOKENS_PER_PROBLEM / scores[0].seconds_per_work if scores else None
    return OPERATIONS_PER_SECOND * cores() if kind == "classify" else None


def _finished() -> list[Run]:
    return [run for run in list_runs(cache_root()) if run.kind in _OPERATIONS and run.status().state == "done"]


def _read_by(parameters: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a model reads in a run."""
    return tuple(parameters.get(name) for name in ("corpus", "task", "loss"))


def _operations(kind: str, parameters: Mapping[str, Any]) -> float:
    """Multiplications and additions: two per parameter and token."""
    models = parameters["models"] if "models" in parameters else [parameters["model"]]
    return 2.0 * sum(map(_entries, models)) * _OPERATIONS[kind](parameters)


def _entries(model: str) -> int:
    return sum(tensor.elements for tensor in open_checkpoint(model).tensors.values())


def _classify_tokens(parameters: Mapping[str, Any]) -> float:
    whole, _ = whole_and_slice(parameters["corpus"])
    folder = Path(expanduser(whole))
    if not folder.is_dir():  # a YAML of sources, whose texts may not be here yet
        raise InputError(f"{whole}: its size is not known")
    files = corpus_files(folder)
    if any(file.is_dir() for file in files):
        raise InputError(f"{whole}: how long images take is not known")
    return sum(file.stat().st_size for file in files) / BYTES_PER_TOKEN


def _knockout_tokens(parameters: Mapping[str, Any]) -> float:
    limit = parameters["limit"]
    if corpus := parameters.get("loss"):
        return measurements(parameters) * _held_out_tokens(corpus, limit)
    if limit is None:
        raise InputError("the number of a task's problems is not known")
    return measurements(parameters) * limit * TOKENS_PER_PROBLEM


def _loss_tokens(parameters: Mapping[str, Any]) -> float:
    return _held_out_tokens(parameters["corpus"], parameters.get("limit"))


def _held_out_tokens(corpus: str, limit: int | None) -> float:
    held = held_out(corpus).corpus
    texts = [[e.text for e in held.exemplars if e.category == name][:limit] for name in held.categories]
    return sum(len(text.encode()) for own in texts for text in own) / BYTES_PER_TOKEN


def measurements(parameters: Mapping[str, Any]) -> int:
    """How often a knock-out scores its model at most: intact, and with each draw of own and of random neurons off."""
    repeats = parameters["repeats"]
    if "proportions" not in parameters:  # of each category of each layer
        table = open_classification(parameters["neurons"]).neurons()
        rows = table[table["layer"].isin(parameters["layers"])]
        lists = [{layer for layer, _ in pairs} for pairs in (parameters.get("lists") or {}).values()]
        cells = len(rows[["layer", "category"]].drop_duplicates())
        return 1 + (1 + repeats) * (cells + sum(len(layers & {*parameters["layers"]}) for layers in lists))
    shares = len(parameters["proportions"])
    whole = 1 if 1.0 in parameters["proportions"] else 0  # the whole category is the same each time
    none = 1 if parameters.get("keep_only") else 0
    return 1 + none + repeats * (2 * shares - whole) + whole


_OPERATIONS = {
    "classify": _classify_tokens,
    "knockout": _knockout_tokens,
    "effects": _knockout_tokens,
    "loss": _loss_tokens,
}
