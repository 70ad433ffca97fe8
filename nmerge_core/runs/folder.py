"""A run is a folder: run.json (what was asked), status.json (how far it is), log.txt and results/."""

import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from nmerge_core.errors import InputError
from nmerge_core.files.in_use import is_used
from nmerge_core.files.kept_files import (
    Damaged,
    check_sealed,
    digest,
    read_object,
    reading,
    remove,
    sealed,
    typed,
    write_json,
)
from nmerge_core.runs.kinds import KINDS
from nmerge_core.runs.lock import run_held, transitions

STATES = ("queued", "running", "done", "failed", "cancelled", "interrupted", "damaged")
STOPPED = "The process that did this run stopped while it was going (killed, out of memory, or the disk was full)."


@dataclass(frozen=True)
class Status:
    """How far a run is; times are Unix seconds, durations seconds, memory bytes."""

    state: str
    submitted: float = 0.0
    stage: str = ""
    done: float = 0.0
    total: float = 0.0
    unit: str = ""
    started: float | None = None
    updated: float = 0.0
    rate: float | None = None  # units per second of this stage
    eta: float | None = None  # seconds left of this stage
    message: str = ""  # why it failed, in a sentence for the user
    pid: int | None = None
    peak_memory: int | None = None
    wrong_input: bool = False  # whether it failed for what it was given, and not for a mistake of ours
    seconds: float | None = None  # how long it took, whatever the clock did meanwhile
    files: dict[str, str] = field(default_factory=dict)  # of a run that is done: what each result is known by

    def __post_init__(self) -> None:
        """Refuse a state that there is not."""
        if self.state not in STATES:
            raise ValueError(f"state {self.state!r}")

    @property
    def active(self) -> bool:
        """Whether the run waits for the worker or is with it."""
        return self.state in ("queued", "running")

    @property
    def fraction(self) -> float:
        """Share of the current stage that is done, in [0, 1]."""
        return min(self.done / self.total, 1.0) if self.total else 0.0


@dataclass(frozen=True)
class Run:
    """What was asked for, and the folder where its answer is."""

    id: str
    kind: str
    title: str
    parameters: dict[str, Any]
    folder: Path
    created: float = 0.0
    inputs: dict[str, str] = field(default_factory=dict)  # fingerprint of every model, corpus, … it reads
    version: str = ""
    damage: str = ""  # why nothing but the id of this run can be read

    @property
    def results(self) -> Path:
        """Folder with what the operation wrote; it is there only when the run is done."""
        return self.folder / "results"

    @property
    def part(self) -> Path:
        """Folder in which the operation writes while it works."""
        return self.folder / "results.part"

    @property
    def cancel_marker(self) -> Path:
        """File whose presence asks the worker to stop this run."""
        return self.folder / "cancel"

    def status(self) -> Status:
        """Read the state, which tells of what happened since: a run that no living process does was interrupted, one
        whose files are not as they were written is damaged.
        """
        path = self.folder / "status.json"
        try:
            with reading(path):
                status = _parsed_status(path, _stamp(path))
            if status.state == "done":
                check_sealed(self.results, status.files)
        except Damaged as error:
            if not self.folder.is_dir():
                return Status("cancelled", message="This run was deleted.")
            status = Status("damaged", message=str(error))
        if self.damage:
            return Status("damaged", message=self.damage)
        if status.state == "running" and not run_held(self.folder):
            return replace(status, state="interrupted", message=interrupted(self.kind, STOPPED), rate=None, eta=None)
        return status

    def write_status(self, status: Status) -> None:
        """Replace status.json in one step, so that a reader never sees half of it; results that are done are sealed."""
        files = sealed(self.results) if status.state == "done" else {}
        write_json(self.folder / "status.json", asdict(replace(status, updated=time.time(), files=files)))

    def log(self, characters: int = 20_000) -> str:
        """Return the end of log.txt."""
        try:
            return (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace")[-characters:]
        except OSError:
            return ""


def interrupted(kind: str, why: str) -> str:
    """Say why a run of a kind ended before it was done, and what comes of starting it again."""
    resumable = kind in KINDS and KINDS[kind].resumable
    return f"{why} {'Start it again to continue.' if resumable else 'Start it again: it begins anew.'}"


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_ino


# Pages and the worker look at every run several times a second: a file is read again only when it was replaced.
@lru_cache(maxsize=4096)
def _parsed_status(path: Path, stamp: tuple[int, int]) -> Status:
    return typed(Status, read_object(path))


@lru_cache(maxsize=4096)
def _described(folder: Path, stamp: tuple[int, int]) -> Run:
    path = folder / "run.json"
    content = read_object(path)
    with reading(path):
        if content.pop("digest", digest(content)) != digest(content):  # versions up to 0.2 wrote none
            raise ValueError("its digest is another")
        run = typed(Run, content, folder=folder)
        if run.id != folder.name:
            raise ValueError(f"it is of {run.id}")
    return run


def create(
    root: Path, kind: str, key: str, title: str, parameters: Mapping[str, Any], inputs: Mapping[str, str], version: str
) -> Run:
    """Make the folder of a new run, queued; the caller holds `transitions`."""
    runs = root / "runs"
    runs.mkdir(mode=0o700, exist_ok=True)
    name = f"{kind}-{key}"
    run = Run(name, kind, title, dict(parameters), runs / name, time.time(), dict(inputs), version)
    temporary = runs / f".new-{secrets.token_hex(4)}"
    temporary.mkdir()
    try:
        described = {f.name: getattr(run, f.name) for f in fields(Run) if f.name not in ("folder", "damage")}
        write_json(temporary / "run.json", described | {"digest": digest(described)})
        replace(run, folder=temporary).write_status(Status("queued", submitted=time.time()))
        remove(run.folder)  # a damaged one
        temporary.rename(run.folder)
    finally:
        remove(temporary)
    return run


def find(root: Path, run_id: str) -> Run | None:
    """Return the run with this id, or None; a folder that is not a run is none, and a run may be damaged."""
    folder = root / "runs" / run_id
    if not run_id or Path(run_id).name != run_id:
        return None
    try:
        path = folder / "run.json"
        with reading(path):
            return _described(folder, _stamp(path))
    except Damaged as error:
        kind, _, key = run_id.rpartition("-")
        if not (kind and key) or not os.path.lexists(path):
            return None
        return Run(run_id, kind, run_id, {}, folder, folder.stat().st_mtime, damage=str(error))


def list_runs(root: Path) -> list[Run]:
    """Return every run of this cache, newest first; other folders are passed over."""
    names = os.listdir(root / "runs") if (root / "runs").is_dir() else []
    runs = [run for name in names if not name.startswith(".") and (run := find(root, name)) is not None]
    return sorted(runs, key=lambda run: (-run.created, run.id))


def delete(run: Run) -> None:
    """Remove the run and its results.

    Raises:
        InputError: The run is going.
    """
    with transitions(run.folder.parent.parent):
        if run_held(run.folder):
            raise InputError(f"{run.title} is running: cancel it before deleting it")
        if is_used(run.results):
            raise InputError(f"{run.title}: a merge that is going goes by it; delete it when that has ended")
        grave = run.folder.with_name(f".deleted-{secrets.token_hex(4)}")
        try:
            run.folder.rename(grave)
        except FileNotFoundError:  # deleted in another tab
            return
    remove(grave)


def clear_leftovers(root: Path) -> None:
    """Remove what processes that were killed had begun to make or to delete; the caller holds `transitions`."""
    for name in ("new", "deleted"):
        for left in (root / "runs").glob(f".{name}-*"):
            remove(left)
