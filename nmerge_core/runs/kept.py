"""What finished runs have measured, for merges to go by, and what stands in for it while a run goes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nmerge_core.cache import cache_root
from nmerge_core.corpus.corpus import load_corpus
from nmerge_core.errors import InputError, shown
from nmerge_core.merging.plan.kept import Measurement, NotMeasured, StandIn
from nmerge_core.runs.folder import Run, find, list_runs
from nmerge_core.runs.request import Request, is_unchanged, places_of, resolve

# What tells which neurons are in which group, and how the groups are solved.
_GROUPED = {"neurons", "top_k", "margin", "grouping", "lists", "together"}
_DECIDE_NO_CATEGORY = {"batch_size", "device", "statistics", "layerwise"}
_DECIDE_NO_SCORE = _DECIDE_NO_CATEGORY | {"corpus", "categories", "top_k", "margin"}
# What two measurements of a kind have in common where one may stand in for the other for a moment.
_ALIKE: Mapping[str, tuple[str, ...]] = {"coefficients": ("base", "models"), "statistics": ("model", "kind")}


def finished_results(measurements: Sequence[Measurement]) -> list[Path | None]:
    """Return the results of the run of each measurement that is done; None where none is, and the merge measures."""
    return [_finished_if_right(each) for each in measurements]


def _finished_if_right(measurement: Measurement) -> Path | None:
    try:
        return _finished(resolve(cache_root(), measurement.kind, measurement.parameters))
    except InputError:  # it reads what the merge itself has just made, or what is wrong, which the merge tells
        return None


def _finished(request: Request) -> Path | None:
    run = find(cache_root(), request.id)
    if run is None or run.status().state != "done":
        run = _newest(request, _contains)
    return run.results if run else None


def classifications(parameters: Mapping[str, Any]) -> list[Run]:
    """Return the runs that give the neurons of a model the categories asked for, newest first, in whatever state.

    A command on a server may have named a device or a batch size, a page statistics: none of them decides a category.

    Raises:
        InputError: the parameters are wrong, or an input is missing.
    """
    request = resolve(cache_root(), "classify", parameters)
    decide = request.parameters.keys() - _DECIDE_NO_CATEGORY
    return [
        run
        for run in list_runs(cache_root())
        if run.kind == "classify"
        and run.inputs == request.inputs
        and all(run.parameters.get(name) == request.parameters[name] for name in decide)
        and Request(run.kind, run.parameters, run.inputs).id == run.id  # else it was made by another version
    ]


def earlier_classifications(parameters: Mapping[str, Any]) -> list[Path]:
    """Return the results of finished classifications of a model as it is now, read alike, whatever the texts were."""
    root = cache_root()
    places = places_of(root)
    request = resolve(root, "classify", parameters, places)
    decide = request.parameters.keys() - _DECIDE_NO_SCORE
    runs_in = f"{request.parameters['model']} runs in"
    content = {places.model(request.parameters["model"]), (runs_in, request.inputs[runs_in])}
    return [
        run.results
        for run in list_runs(root)
        if run.kind == "classify"
        and content <= {*run.inputs.items()}
        and all(run.parameters.get(name) == request.parameters[name] for name in decide)
        and Request(run.kind, run.parameters, run.inputs).id == run.id  # else it was made by another version
        and run.status().state == "done"
    ]


def newest_labels(model: str, corpus: str | None) -> Path | None:
    """Return the results of the newest finished labelling of a model as it is now; None where there is none.

    It is of neurons that were classified by this corpus: by other texts they have other categories.
    """
    content = places_of(cache_root()).model(model)
    of_model = [
        run
        for run in list_runs(cache_root())
        if run.kind == "label" and content in run.inputs.items() and run.parameters["model"] == content[0]
    ]
    done = [run for run in of_model if run.status().state == "done"]
    if corpus is None or not done:
        return None
    try:
        texts = load_corpus(corpus).fingerprint
    except InputError:  # whoever reads it says what is wrong
        return None
    return next((run.results for run in done if texts_labelled(run) == texts), None)


def texts_labelled(labelling: Run) -> str | None:
    """Return the fingerprint of the texts that the neurons of a labelling were classified by; None where it is gone."""
    from nmerge_core.activations.store import open_classification  # here, as it brings pandas along

    try:
        return open_classification(labelling.parameters["neurons"]).meta.get("corpus_fingerprint")
    except InputError:
        return None


class FinishedOrAlike:
    """Results of finished runs; if `alike`, where there are none those of the newest run like them, which it notes."""

    def __init__(self, *, alike: bool) -> None:
        """Start with nothing that stands in."""
        self._alike = alike
        self.stand_ins: list[StandIn] = []

    def __call__(self, measurements: Sequence[Measurement]) -> list[Path | None]:
        """Return the results of every measurement.

        Raises:
            InputError: what is to be measured is wrong, or not there.
            NotMeasured: some have no results, nor what may stand in for them.
        """
        root = cache_root()
        places = places_of(root)
        requests = [resolve(root, each.kind, each.parameters, places) for each in measurements]
        found = [_finished(request) for request in requests]
        missing = []
        for index, (measurement, request) in enumerate(zip(measurements, requests, strict=True)):
            if found[index] is not None:
                continue
            if self._alike and (alike := _newest(request, _is_alike)):
                self.stand_ins.append(StandIn(measurement, _otherwise(alike, request)))
                found[index] = alike.results
            else:
                missing.append(measurement)
        if missing:
            raise NotMeasured(missing)
        return found


def needs_of(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Return what a page needs to start the runs: the kind of each, its parameters, and the seconds it may take."""
    from nmerge_core.runs.durations import seconds_of  # here, as it brings pandas along

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


def _newest(request: Request, fits: Callable[[Run, Request], bool]) -> Run | None:
    """Return the newest finished run of a request's kind that fits it."""
    for run in list_runs(cache_root()):
        if run.kind == request.kind and fits(run, request) and run.status().state == "done":
            return run
    return None


def _contains(run: Run, request: Request) -> bool:
    """Whether a run has solved the coefficients that are asked for among others.

    Each part's are its own alone, but those of groups that are solved together.
    """
    if request.kind != "coefficients" or not _groups(request) <= _groups(run):
        return False
    if _groups(request) and request.parameters["together"] and _groups(request) != _groups(run):
        return False
    decide = request.parameters.keys() - {"groups"} - (set() if _groups(request) else _GROUPED)
    return all(run.parameters.get(name) == request.parameters[name] for name in decide) and is_unchanged(run)


def _is_alike(run: Run, request: Request) -> bool:
    """Whether a run is of the same models, as they are now, and has all the groups of neurons that are asked for."""
    for name in _ALIKE.get(request.kind, ()):
        asked = request.parameters[name]
        models = [asked] if isinstance(asked, str) else asked
        if run.parameters[name] != asked or any(run.inputs.get(m) != request.inputs.get(m) for m in models):
            return False
    return request.kind in _ALIKE and _groups(request) <= _groups(run)


def _groups(of: Run | Request) -> set[str]:
    return set(of.parameters.get("groups") or ())


def _otherwise(run: Run, request: Request) -> str:
    """Say what a run was asked otherwise than a request."""
    said = request.parameters.keys() - {"groups"} - (set() if _groups(request) else _GROUPED)
    told = ", ".join(
        f"the default {name.replace('_', ' ')}"
        if value is None
        else f"{name.replace('_', ' ')} {value if isinstance(value, str) else shown(value)}"
        for name, value in run.parameters.items()
        if name in said and value != request.parameters[name]
    )
    return f"{run.kind} measured with {told or 'inputs that have changed since'}"
