"""How long a measurement, or a report, will take: from headers, the size of what is read, and the speed of the last."""

from collections.abc import Mapping
from contextlib import suppress
from os.path import expanduser
from pathlib import Path
from typing import Any

from nmerge_core.cache import cache_root
from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.corpus.corpus import whole_and_slice
from nmerge_core.errors import InputError
from nmerge_core.machine import CPU, choose_device, cores
from nmerge_core.merging.plan.kept import Measurement
from nmerge_core.reports.budget import BUDGETS
from nmerge_core.reports.effort import Effort, foreseen
from nmerge_core.reports.parameter import open_family
from nmerge_core.runs.folder import list_runs

_START = 2.0  # seconds until a worker takes up a run and has read its models
_CORE, _ACCELERATOR = 1.5e10, 5e12  # operations a second in float32, running a model on a few texts
_CORE_BATCHES = 6e10  # of a core, on many texts at a time
_TELLING = 10  # scorings from which on a report tells more of the machine's speed than of its start
_BYTES_PER_TOKEN = 4
_LONGEST = 512  # tokens that are read of a text


def seconds_of(measurement: Measurement) -> float:
    """Return about how many seconds a measurement takes.

    Raises:
        InputError: a model that it names cannot be opened.
    """
    parameters = measurement.parameters
    if measurement.kind == "merge":  # of a method that searches
        from nmerge_core.merging.plan.estimate import estimate
        from nmerge_core.merging.recipe.reading import load_recipe

        return estimate(load_recipe(parameters["recipe"]), cache_root()).seconds
    return _START + _operations(measurement.kind, parameters) / _speed(measurement)


def report_seconds(parameters: Mapping[str, Any]) -> float:
    """Return about how many seconds a report takes of which nothing is measured yet, given the parameters of its run.

    Raises:
        InputError: something that its family names cannot be read, or not before it is fetched.
    """
    effort = _report_effort(parameters)
    return _START + effort.total * _scoring(effort) / _report_speed(parameters["device"])


def _report_effort(parameters: Mapping[str, Any]) -> Effort:
    return foreseen(open_family(parameters["family"]), BUDGETS[parameters["budget"]], parameters["run_code"])


def _scoring(effort: Effort) -> float:
    """Count operations of scoring one model, as all of a report is counted in."""
    return 2.0 * _entries(effort.plan.family.base) * effort.scoring


def _report_speed(device: str) -> float:
    """Return operations a second as the newest report on a device has shown, by what it measured in its last run."""
    for run in list_runs(cache_root()):
        if run.kind == "report" and run.parameters.get("device") == device:
            status = run.status()
            if status.state == "done" and status.seconds and status.total > _TELLING:
                with suppress(InputError):  # what it has read is gone
                    effort = _report_effort(run.parameters)
                    if effort.subjects:
                        return status.total * _scoring(effort) / status.seconds
    return _CORE_BATCHES * cores() if choose_device(device) == CPU else _ACCELERATOR


def _speed(measurement: Measurement) -> float:
    """Return operations a second as the newest run of the same kind on the same device has shown, else as is usual."""
    alike = {name: measurement.parameters.get(name) for name in ("kind", "device")}
    for run in list_runs(cache_root()):
        if run.kind != measurement.kind or any(run.parameters.get(name) != value for name, value in alike.items()):
            continue
        status = run.status()
        if status.state == "done" and status.seconds:
            with suppress(InputError):  # what it has read is gone
                return _operations(run.kind, run.parameters) / status.seconds
    device = choose_device(measurement.parameters["device"])
    return _CORE * cores() if device == CPU else _ACCELERATOR


def _operations(kind: str, parameters: Mapping[str, Any]) -> float:
    """Count multiplications and additions: two per parameter and token of each pass through a model."""
    passes: Mapping[str, float] = {
        "classify": 1,
        "fisher": 20,  # forwards and backwards, each text by itself
        "gram": 3,  # forwards, and products of inputs
        "magnitude": 1,
        # the base's states, and each model's submodules: whole ones, and MLPs once more by groups
        "coefficients": 1 + 2 * (1 + len(parameters.get("models", ()))),
    }
    texts = [_tokens(parameters["corpus"], name, parameters.get("samples")) for name in _categories(parameters)]
    return 2.0 * _entries(_model(parameters)) * sum(texts) * passes[parameters.get("kind", kind)]


def _entries(model: str) -> int:
    return sum(tensor.elements for tensor in open_checkpoint(model).tensors.values())


def _model(parameters: Mapping[str, Any]) -> str:
    return str(parameters["base"] if "base" in parameters else parameters["model"])


def _categories(parameters: Mapping[str, Any]) -> list[str]:
    """Return the categories whose texts are read; all of a corpus, as one, where none are named."""
    return list(dict.fromkeys(parameters.get("categories") or ["*"]))


def _tokens(corpus: str, category: str, samples: int | None) -> float:
    """Return about how many tokens are read of a category's texts; as long ones as are read where they are not here."""
    folder = Path(expanduser(whole_and_slice(corpus)[0]))
    files = list(folder.glob(f"{category}.jsonl"))
    if not files:
        return (samples or 1000) * _LONGEST
    lines = sum(file.read_bytes().count(b"\n") for file in files)
    share = min(1.0, samples / max(1, lines)) if samples else 1.0
    return share * min(sum(file.stat().st_size for file in files) / _BYTES_PER_TOKEN, lines * _LONGEST)
