"""What a command was given: the parameters of its kind of run, a family in place of models, and where results go."""

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from nmerge_core.distributed import join, processes
from nmerge_core.errors import InputError
from nmerge_core.family import Family, load_family
from nmerge_core.files.folders import check_free, copy_folder, new_folder
from nmerge_core.progress import TerminalProgress
from nmerge_core.runs.folder import Run
from nmerge_core.runs.kinds import KINDS


def given_to(kind: str, arguments: Namespace) -> dict[str, Any]:
    """Return the parameters of a kind of run as they stand on the command line, the models of a family if one does."""
    given = {name: getattr(arguments, name) for name in KINDS[kind].by_name}
    if "base" in given and "models" in given:
        if family := family_of([given["base"], *given["models"]]):
            given |= {"base": family.base, "models": family.models}
        elif not given["models"]:
            raise InputError(f"{kind}: expected fine-tunes after the base, or a family's YAML in place of them all")
    elif "models" in given and (family := family_of(given["models"])):
        given["models"] = family.members
    return given


def family_of(references: Sequence[str]) -> Family | None:
    """Return the family whose YAML stands alone where models do."""
    alone = references[0] if len(references) == 1 else ""
    return load_family(alone) if alone.endswith((".yaml", ".yml")) else None


def make(kind: str, arguments: Namespace, work: Callable[..., object], part: str = "") -> None:
    """Leave in OUT the results of a run of the cache where it is done, or the `part` of them; else make them there.

    Among several processes each does its share of the work, and none takes anything.
    """
    from nmerge_core.runs import here

    given, out = given_to(kind, arguments), arguments.out
    run = None
    if processes() == 1 and not out.exists():
        with suppress(InputError):  # the work itself tells what is wrong, all of it at once
            run = here.finished(kind, given)
    if run is None:
        work(**KINDS[kind].check(given), out=out, progress=TerminalProgress())
        return
    _take(run, out, part)


def make_kept(kind: str, arguments: Namespace, work: Callable[..., object]) -> None:
    """Leave in OUT the results of a run of the cache, done now unless it is: pages find it, and a killed one goes on.

    Among several processes each does its share of the work, and what they have made is kept as that run.
    """
    from nmerge_core.runs import here

    given, out = given_to(kind, arguments), arguments.out
    check_free(out)
    if processes() > 1:
        work(**KINDS[kind].check(given), out=out, progress=TerminalProgress())
        if join()[0] == 0:
            here.keep(kind, given, out)
    elif run := here.finished(kind, given):
        _take(run, out)
    else:
        run = here.do(kind, given, TerminalProgress())
        print(f"nmerge: the app finds it too, in {run.folder}", file=sys.stderr)
        with new_folder(out) as folder:
            copy_folder(run.results, folder)


def _take(run: Run, out: Path, part: str = "") -> None:
    """Copy the results of a run that was done before, or a part of them."""
    print(f"nmerge: taken from {run.results}, where it was done before", file=sys.stderr)
    with new_folder(out) as folder:
        copy_folder(run.results / part, folder)
