"""What a call gives: references in each form, be it text or `Path`, one, several, named or a family; and its run."""

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike, fspath
from os.path import expanduser
from typing import Any

from nmerge_core.checkpoints import labels
from nmerge_core.checkpoints.reference import absolute
from nmerge_core.errors import InputError
from nmerge_core.family import Family, Member
from nmerge_core.progress import shown_progress
from nmerge_core.runs import here
from nmerge_core.runs.folder import Run

Reference = str | PathLike[str]
References = Reference | Sequence[Reference]
Models = References | Mapping[str, Reference] | Family


def do(kind: str, progress: bool, /, **given: Any) -> Run:
    """Return the run of a kind with these parameters, done before or now, its progress shown if wanted."""
    return here.do(kind, given, shown_progress(progress))


def named(references: Models) -> tuple[list[str], list[str]]:
    """Return what each of one or several references is called, and the references as text.

    Raises:
        InputError: it is none of these, there is none, or one is there twice and no mapping tells them apart.
    """
    if isinstance(references, Mapping):
        return [str(name) for name in references], _texts(references.values())
    members = references.members if isinstance(references, Family) else references
    several = [members] if isinstance(members, str | PathLike) else members
    if not isinstance(several, Sequence):
        raise InputError(f"expected a path, several, {{name: path}} or a family, found {references!r}")
    given = _texts(several)
    _check_once(given, "leave one out, or name both by a mapping, {name: path}")
    known = zip(several, labels(given), strict=True)
    return [each.label if isinstance(each, Member) else short for each, short in known], given


def named_once(references: Models) -> tuple[list[str], list[str]]:
    """Do as `named` for what tells models apart by what they are; raises InputError for one under two names too."""
    names, given = named(references)
    _check_once(given, "leave one out")
    return names, given


def _check_once(given: Sequence[str], remedy: str) -> None:
    full = [absolute(reference) for reference in given]
    for index, reference in enumerate(full):
        if reference in full[:index]:
            raise InputError(f"{given[index]} is there twice; {remedy}")


def _texts(references: Iterable[Any]) -> list[str]:
    found = [text(each) for each in references]
    if not found:
        raise InputError("expected at least one, found an empty list")
    return found


def as_called(run: Run, names: Sequence[str]) -> dict[str, str]:
    """Return what each of a run's `models` is called here, by the name that its files have."""
    return dict(zip(labels(run.parameters["models"]), names, strict=True))


def text(reference: Any) -> str:
    """Return a path, of a user's folder (~) in full, or a name as text; raises InputError where it is neither."""
    if not isinstance(reference, str | PathLike):
        raise InputError(f"expected a path or a name, found {reference!r}")
    return expanduser(fspath(reference))
