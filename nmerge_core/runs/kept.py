"""What finished runs have measured, for merges to go by, and what stands in for it while a run goes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nmerge_core.cache import cache_root
from nmerge_core.errors import InputError, shown
from nmerge_core.merging.plan.kept import Measurement, NotMeasured, StandIn
from nmerge_core.runs.client import lookup
from nmerge_core.runs.durations import seconds_of
from nmerge_core.runs.folder import Run, list_runs
from nmerge_core.runs.request import Request, resolve

# What two measurements of a kind have in common where one may stand in for the other for a moment.
_ALIKE: Mapping[str, tuple[str, ...]] = {"coefficients": ("base", "models"), "statistics": ("model", "kind")}


def finished_results(measurements: Sequence[Measurement]) -> list[Path | None]:
    """Return the results of the run of each measurement that is done; None where none is, and the merge measures."""
    return [_finished(each) for each in measurements]


def _finished(measurement: Measurement) -> Path | None:
    try:
        run = lookup(measurement.kind, measurement.parameters)
    except InputError:  # it reads what the merge itself has just made, or what is wrong, which the merge tells
        return None
    return run.results if run is not None and run.status().state == "done" else None


class FinishedOrAlike:
    """Results of finished runs; where there are none those of the newest run that is alike, which it notes down."""

    def __init__(self) -> None:
        """Start with nothing that stands in."""
        self.stand_ins: list[StandIn] = []

    def __call__(self, measurements: Sequence[Measurement]) -> list[Path | None]:
        """Return the results of every measurement; raises NotMeasured where some have none, nor any like them."""
        found = finished_results(measurements)
        missing = []
        for index, measurement in enumerate(measurements):
            if found[index] is not None:
                continue
            request = resolve(cache_root(), measurement.kind, measurement.parameters)
            if alike := _newest_alike(request):
                self.stand_ins.append(StandIn(measurement, _otherwise(alike, request)))
                found[index] = alike.results
            else:
                missing.append(measurement)
        if missing:
            raise NotMeasured(missing)
        return found


def needs_of(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Return what a page needs to start the runs: the kind of each, its parameters, and the seconds it may take."""
    return [
        {"kind": each.kind, "parameters": dict(each.parameters), "seconds": seconds_of(each)} for each in measurements
    ]


def provisional(stand_ins: Sequence[StandIn]) -> dict[str, Any]:
    """Return what is said of an answer that others stand in for: the runs it "needs", and what it goes by meanwhile."""
    if not stand_ins:
        return {}
    return {
        "needs": needs_of([each.measurement for each in stand_ins]),
        "provisional": "; ".join(dict.fromkeys(each.told for each in stand_ins)),
    }


def _newest_alike(request: Request) -> Run | None:
    """Return the newest finished run whose results can stand in for those of a request."""
    for run in list_runs(cache_root()):
        if run.kind == request.kind and _is_alike(run, request) and run.status().state == "done":
            return run
    return None


def _is_alike(run: Run, request: Request) -> bool:
    """Whether a run is of the same models, as they are now, and has all the groups of neurons that are asked for."""
    for name in _ALIKE.get(request.kind, ()):
        asked = request.parameters[name]
        models = [asked] if isinstance(asked, str) else asked
        if run.parameters[name] != asked or any(run.inputs.get(m) != request.inputs.get(m) for m in models):
            return False
    asked_groups, groups = (set(each.get("groups") or ()) for each in (request.parameters, run.parameters))
    return request.kind in _ALIKE and asked_groups <= groups


def _otherwise(run: Run, request: Request) -> str:
    """Say what a run was asked otherwise than a request."""
    other = {name: value for name, value in run.parameters.items() if value != request.parameters[name]}
    told = ", ".join(
        f"{name.replace('_', ' ')} {'unset' if value is None else value if isinstance(value, str) else shown(value)}"
        for name, value in other.items()
    )
    return f"{run.kind} measured with {told or 'inputs that have changed since'}"
