"""Reading what runs left behind: tables with the models' names as the pages know them, and merged checkpoints."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from nmerge_core.cache import cache_root
from nmerge_core.checkpoints import labels
from nmerge_core.family import Family, Member
from nmerge_core.files.kept_files import read_csv, reading
from nmerge_core.merging.recipe.mergekit_recipe import named_models
from nmerge_core.runs.folder import Run, list_runs
from nmerge_core.runs.tints import merge_tints
from pages.shared.frame.family import full, member_colours
from pages.shared.frame.settings import KEPT, named_run
from pages.shared.frame.text import in_full, shortened

BESIDE = "merges"  # the setting of the pages that show merges beside the family's models


def read_table(run: Run, name: str, models: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table that a finished run wrote.

    Args:
        run: The run; its results must be there.
        name: The file in its results.
        models: What the pages call the models of the run's parameter `models`, in its order; else they stay as written.
    """
    path = run.results / name
    with reading(path):
        frame = _read_csv(path, path.stat().st_mtime_ns)
    if models:
        frame["model"] = frame["model"].map(dict(zip(labels(run.parameters["models"]), models, strict=True)))
    return frame


@st.cache_data(max_entries=64, show_spinner=False)
def _read_csv(path: Path, modified: int) -> pd.DataFrame:
    """Read a CSV; `modified` is there to make the cache forget a rewritten file."""
    return read_csv(path)


def asked_parameters(kind: str) -> dict[str, Any]:
    """The parameters of the run the address names (`?run=…`), for the page's controls to start at; else none."""
    run = named_run(kind)
    return run.parameters if run is not None else {}


@dataclass(frozen=True)
class Merged:
    """A checkpoint that a merge run made of a family: the run, and the name pages call it by."""

    run: Run
    name: str

    @property
    def reference(self) -> str:
        """The folder of the checkpoint."""
        return str(self.run.results / "merged")


def merges(family: Family) -> list[Merged]:
    """The finished merges of a family's models, newest first; equal titles are told apart by the run's key."""
    known = {full(member.reference) for member in family.members}
    done = [
        run
        for run in list_runs(cache_root())
        if run.kind == "merge" and run.status().state == "done" and known >= _merged(run.parameters["recipe"])
    ]
    titles = [run.title for run in done]
    return [
        Merged(run, run.title if titles.count(run.title) == 1 else f"{run.title} · {run.id.rpartition('-')[2][:4]}")
        for run in done
    ]


def _merged(recipe: Mapping[str, Any]) -> set[str]:
    """Return the models that a recipe merges, in whichever stage; neither its stages nor its bases are among them."""
    stages = recipe.get("stages") or {}
    bases = {each.get("base_model") for each in (recipe, *stages.values())}
    return {*named_models(recipe)} - {*stages} - bases


def with_merges(family: Family) -> Family:
    """Draw which merges stand beside the family's models, where there are any, and return the family with these."""
    known = {merge.name: merge for merge in merges(family)}
    if not known:
        return family
    chosen = st.multiselect(
        "Merges beside the family",
        list(known),
        format_func=shortened,
        key=BESIDE,
        placeholder="none: choose one, to see what became of each neuron in it",
        help=in_full(known) or None,
        wrap=True,
        **KEPT,
    )
    merged = tuple(Member(known[name].reference, name, merged=True) for name in chosen)
    return replace(family, models=(*family.models, *merged))


def model_colours(family: Family, merged: Sequence[Merged], *, dark: bool) -> dict[str, str]:
    """The colour of each model of a family and of each merge, a tint of the merges' own, by name."""
    tints = merge_tints()
    return member_colours(family, dark) | {merge.name: tints[merge.reference] for merge in merged}


def zipped(folder: Path) -> bytes:
    """The checkpoint's files in one zip; weights do not shrink, so nothing is compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(file, Path(folder.name) / file.relative_to(folder))
    return buffer.getvalue()
