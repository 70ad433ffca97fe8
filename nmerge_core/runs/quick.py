"""Scores on a few problems at a time, as a page asks for them; those of models that are on the disk are kept."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nmerge_core.cache import cache_root
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.errors import InputError
from nmerge_core.evaluation.problems import Source, open_problems, scored
from nmerge_core.files.kept_files import Damaged, digest, read_object, write_json
from nmerge_core.inputs import Places, model_fingerprint
from nmerge_core.loading import LanguageModel
from nmerge_core.machine import choose_device
from nmerge_core.number_format import choose_format
from nmerge_core.runs.answering import heed
from nmerge_core.runs.models import LoadedModels

STEP = 5  # problems that are scored at a time: some tenths of a second where the model is small
VERSION = 4  # is raised when the same problems give other scores
_OF_PROBLEMS = ("values", "tokens", "clusters")
_ANSWER = dict.fromkeys(_OF_PROBLEMS, list) | {"run_dtype": str}


def rows(tasks: Sequence[str], corpus: str | None, run_code: bool, allow_task_code: bool) -> list[dict[str, Any]]:
    """Return what `operations.problems` says."""
    places, found = Places(cache_root()), list[dict[str, Any]]()
    named = [(task, True) for task in tasks] + ([(corpus, False)] if corpus else [])
    for reference, is_task in named:
        try:
            full, content = (places.task if is_task else places.corpus)(reference)
            source = Source(full, content, is_task, run_code, allow_task_code)
            found += [
                {
                    "source": asdict(source),
                    "name": each.name,
                    "metric": each.metric,
                    "higher_is_better": each.higher_is_better,
                    "count": each.count,
                    "said": each.said,
                }
                for each in open_problems(source)
            ]
        except InputError as error:
            found.append({"name": Path(reference).stem, "lacks": str(error)})
    return found


def scores(
    language_model: LanguageModel, source: Mapping[str, Any], name: str, start: int, stop: int
) -> dict[str, Any]:
    """Score a model on a few problems of a row from `start`, before `stop`; tell the documents that they share, too."""
    problems, end = scored(open_problems(Source(**source)), name), min(start + STEP, stop)
    values, tokens = problems.score(language_model, start, end, heed)
    of_problems = {"values": values, "tokens": tokens, "clusters": list(problems.clusters[start:end])}
    return of_problems | {"run_dtype": language_model.run_dtype}


def kept_scores(
    models: LoadedModels, model: str, source: Mapping[str, Any], name: str, start: int, stop: int
) -> dict[str, Any]:
    """Return what a model scored before on a row's problems from `start`, at most to `stop`; else score a few now.

    It is computed once for the model's content, that of the problems, and how the model runs.
    """
    checkpoint = open_checkpoint(model)
    problems = source["reference"], source["content"], source["is_task"], name
    runs_in = choose_format(checkpoint).name, choose_device()
    key = VERSION, model_fingerprint(checkpoint), *problems, *runs_in

    def file(first: int) -> Path:
        return cache_root() / "quick" / f"{digest([*key, first, min(first + STEP, stop)])}.json"

    found: dict[str, Any] = {}
    for first in range(start, stop, STEP):
        try:
            kept = read_object(file(first), _ANSWER)
        except Damaged:  # or not there yet
            break
        found = {**kept, **{name: found.get(name, []) + kept[name] for name in _OF_PROBLEMS}}
    if not found:
        found = scores(models.get(model), source, name, start, stop)
        with suppress(OSError):  # the disk is full: scored again the next time
            file(start).parent.mkdir(parents=True, exist_ok=True)
            write_json(file(start), found)
    return found
