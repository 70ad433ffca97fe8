"""What a sweep leaves in its folder: what was asked for, the table, the best recipe, and the checkpoints it keeps."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nmerge_core.errors import InputError, shown
from nmerge_core.files.folders import make_folder
from nmerge_core.files.kept_files import reading, write_text
from nmerge_core.progress import Progress
from nmerge_core.search.merging import RECIPE, Merges, copy_neurons
from nmerge_core.search.plan import Sweep
from nmerge_core.search.shared_trials import JOURNAL, SharedTrials, turn
from nmerge_core.search.trials import Trial, best_first, importance_table, table

TRIALS, BEST, IMPORTANCE = "trials.csv", "best.yaml", "importance.csv"
_FEW = 50  # trials whose keys are weighed within half a second
_RECORD, _RECIPES = "sweep.yaml", "recipes"


def recipe_folder(out: Path, number: int) -> Path:
    """Return the folder of a trial's resolved recipe."""
    return out / _RECIPES / str(number)


def begin(out: Path, plan: Sweep) -> None:
    """Make the folder, or check that the one that is there is of this very sweep."""
    record = {**plan.identity, "sources": plan.inputs}
    record = yaml.safe_load(yaml.safe_dump(record, sort_keys=False))  # as it will be read again
    file = out / _RECORD
    make_folder(out)
    with turn(out):
        if all(path.name.startswith(".") for path in out.iterdir()):
            write_text(file, yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=100))
        elif not file.is_file():
            raise InputError(f"{out}: exists already; expected a new folder, or one that this sweep has begun")
        else:
            _check_same(out, file, record)


def _check_same(out: Path, file: Path, record: Mapping[str, Any]) -> None:
    with reading(file):
        before = dict(yaml.safe_load(file.read_text(encoding="utf-8")))
        sources = dict(before.get("sources") or {})
    if changed := [name for name, content in record["sources"].items() if sources.get(name, content) != content]:
        raise InputError(
            f"{out}: {', '.join(changed)} was changed since this sweep was begun, its trials are of what was there "
            "before; name another folder, or put back what was there"
        )
    for key in dict.fromkeys([*record, *before]):
        if before.get(key) != record.get(key):
            raise InputError(
                f"{file}, key '{key}': this folder is of another sweep; expected {shown(record.get(key))}, found "
                f"{shown(before.get(key))}; name another folder, or go on with what it was begun with"
            )
    if (out / TRIALS).exists() and not (out / JOURNAL).exists():
        raise InputError(f"{out}: an earlier version has begun this sweep; name another folder")


def publish(plan: Sweep, out: Path, shared: SharedTrials) -> None:
    """Write the table of the finished trials and the recipe of the best."""
    finished = shared.finished()
    write_text(out / TRIALS, table(finished, len(plan.objectives)))
    if best := best_first(finished)[:1]:
        folder = recipe_folder(out, best[0].number)
        copy_neurons(folder, out)
        write_text(out / BEST, (folder / RECIPE).read_text(encoding="utf-8"))


def weigh(out: Path, shared: SharedTrials, *, last: bool) -> None:
    """Write what each key makes of the trials' differences; it takes long of many, and is told of the `last` only then.

    It is found out in nobody's turn, as others may wait for theirs.
    """
    if (last or len(shared.finished()) <= _FEW) and (found := shared.importances()):
        write_text(out / IMPORTANCE, importance_table(found))


def wanted(plan: Sweep, out: Path, finished: list[Trial]) -> dict[Path, Path]:
    """Return the checkpoints that are to be kept, with the folders of their recipes."""
    ranked = best_first(finished)
    if plan.keep == "none":
        return {}
    if plan.keep == "best":
        chosen = dict(zip([out / "best"], ranked, strict=False))
    else:
        kept = finished if plan.keep == "all" else ranked[: int(plan.keep)]
        chosen = {out / "trials" / str(trial.number): trial for trial in kept}
    return {place: recipe_folder(out, trial.number) for place, trial in chosen.items()}


def is_there(checkpoint: Path, recipe: Path) -> bool:
    """Whether a checkpoint is there, and that of this recipe."""
    written = checkpoint / RECIPE
    return written.exists() and written.read_bytes() == (recipe / RECIPE).read_bytes()


def write(wanted: Mapping[Path, Path], merges: Merges, progress: Progress) -> None:
    """Write the checkpoints that are to be kept, and remove those that are no more among the best."""
    for place, recipe in wanted.items():
        if not is_there(place, recipe):
            place.parent.mkdir(exist_ok=True)
            beside = place.with_name(f".{place.name}-new")
            shutil.rmtree(beside, ignore_errors=True)
            merges.write(recipe, beside, progress)
            shutil.rmtree(place, ignore_errors=True)
            beside.rename(place)
    for folder in {place.parent for place in wanted if place.name != "best"}:
        for old in set(folder.iterdir()) - wanted.keys():
            shutil.rmtree(old, ignore_errors=True)
