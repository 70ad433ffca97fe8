"""What a run is asked to do: its parameters with every default filled in, and the fingerprints of what it reads."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nmerge_core.checkpoints.reference import label
from nmerge_core.errors import InputError
from nmerge_core.inputs import Places
from nmerge_core.merging.engine import load
from nmerge_core.parameters.values import Extra, Manner, Permission
from nmerge_core.runs.folder import Run, find
from nmerge_core.runs.kinds import KINDS


@dataclass(frozen=True)
class Request:
    """A resolved request: equal ones have the same id, and one whose input changed has another."""

    kind: str
    parameters: dict[str, Any]
    inputs: dict[str, str]  # what is read → its fingerprint; a method, a model → what else decides the result

    @property
    def key(self) -> str:
        """12 hex digits of the kind, its version, the parameters and the content of all that is read."""
        kind = KINDS[self.kind]
        asked = {
            name: value
            for name, value in self.parameters.items()
            if not isinstance(kind.by_name[name], Manner)
            and (value or not isinstance(kind.by_name[name], Permission | Extra))
        }
        content = json.dumps([self.kind, kind.version, asked, self.inputs], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def id(self) -> str:
        """The name of the run's folder."""
        return f"{self.kind}-{self.key}"

    @property
    def manner(self) -> dict[str, Any]:
        """What is asked for of how the run comes to its results."""
        by_name = KINDS[self.kind].by_name
        return {name: value for name, value in self.parameters.items() if isinstance(by_name[name], Manner)}

    @property
    def title(self) -> str:
        """What the run is called where the caller gave no title."""
        if "recipe" in self.parameters:
            return load(self.parameters["recipe"]).title({})
        models = self.parameters.get("models") or [self.parameters.get("model", "")]
        return f"{self.kind} {', '.join(label(model) for model in models if model)}".strip()


def places_of(root: Path) -> Places:
    """Return where names lead that are given with a cache: to its runs too."""
    return Places(root, results=partial(_results, root))


def resolve(root: Path, kind: str, parameters: Mapping[str, Any], places: Places | None = None) -> Request:
    """Fill in defaults, make paths absolute, and take the fingerprint of every model, corpus, run and task named.

    Several requests at one moment may share their `places`, which remember models.

    Raises:
        InputError: an unknown kind or parameter, one that is missing or wrong, or an input that is not there.
    """
    if kind not in KINDS:
        raise InputError(f"kind of run {kind!r}: expected one of {', '.join(KINDS)}")
    values = KINDS[kind].check(parameters)
    full, inputs = KINDS[kind].content(values, places or places_of(root))
    return Request(kind, json.loads(json.dumps(full)), inputs)  # as it will be read from the run's folder


def check_unchanged(run: Run) -> Request:
    """Return what a run was asked to do.

    Raises:
        InputError: an input has changed since: its figures would not be what its parameters say.
    """
    request = resolve(run.folder.parent.parent, run.kind, run.parameters)
    if request.id != run.id:
        raise InputError(f"{run.title}: its inputs (or this program) have changed since; start a new run instead")
    return request


def is_unchanged(run: Run) -> bool:
    """Whether what a run has read, and what computes it, are as they were."""
    try:
        check_unchanged(run)
    except InputError:
        return False
    return True


def _results(root: Path, reference: str) -> Path | None:
    """Return the results of a run of this cache by its id; None where the reference is no run's id."""
    run = find(root, reference)
    if run is None:
        return None
    status = run.status()
    if status.state == "damaged":
        raise InputError(status.message)
    if status.state != "done":
        raise InputError(f"{run.title}: expected a finished run, but it is {status.state}")
    return run.results
