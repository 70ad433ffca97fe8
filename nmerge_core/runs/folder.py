"""A run is a folder: run.json (what was asked), status.json (how far it is), log.txt and results/."""

import json
import os
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from nmerge_core.errors import InputError
from nmerge_core.runs.kinds import KINDS
from nmerge_core.runs.lock import run_held, transitions

STATES = ("queued", "running", "done", "failed", "cancelled", "interrupted")
STOPPED = "The process that did this run stopped while it was going (killed, or out of memory)."


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
        """Read the state; a run that no living process is doing any more is shown as interrupted."""
        try:
            path = self.folder / "status.json"
            status = _parsed_status(path, _stamp(path))
        except FileNotFoundError:
            return Status("cancelled", message="This run was deleted.")
        if status.state == "running" and not run_held(self.folder):
            return replace(status, state="interrupted", message=interrupted(self.kind, STOPPED), rate=None, eta=None)
        return status

    def write_status(self, status: Status) -> None:
        """Replace status.json in one step, so that a reader never sees half of it."""
        write_json(self.folder / "status.json", asdict(replace(status, updated=time.time())))

    def log(self, characters: int = 20_000) -> str:
        """Return the end of log.txt."""
        try:
            return (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace")[-characters:]
        except FileNotFoundError:
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
    return Status(**json.loads(path.read_text(encoding="utf-8")))


@lru_cache(maxsize=4096)
def _text(path: Path, stamp: tuple[int, int]) -> str:
    return path.read_text(encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON to a temporary file beside `path`, then rename it to `path`."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(temporary, path)


def create(
    root: Path, kind: str, key: str, title: str, parameters: Mapping[str, Any], inputs: Mapping[str, str], version: str
) -> Run:
    """Make the folder of a new run, queued; the caller holds `transitions`."""
    runs = root / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    name = f"{kind}-{key}"
    run = Run(name, kind, title, dict(parameters), runs / name, time.time(), dict(inputs), version)
    temporary = runs / f".new-{secrets.token_hex(4)}"
    temporary.mkdir()
    described = {f.name: getattr(run, f.name) for f in fields(Run) if f.name != "folder"}
    write_json(temporary / "run.json", described)
    replace(run, folder=temporary).write_status(Status("queued", submitted=time.time()))
    temporary.rename(run.folder)
    return run


def find(root: Path, run_id: str) -> Run | None:
    """Return the run with this id, or None; a folder that is not a run is none."""
    folder = root / "runs" / run_id
    if not run_id or Path(run_id).name != run_id:
        return None
    try:
        described = json.loads(_text(folder / "run.json", _stamp(folder / "run.json")))
        run = Run(folder=folder, **described)
        run.status()
    except (OSError, ValueError, TypeError):
        return None
    return run


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
        if run.status().state == "running":
            raise InputError(f"{run.title} is running: cancel it before deleting it")
        grave = run.folder.with_name(f".deleted-{secrets.token_hex(4)}")
        try:
            run.folder.rename(grave)
        except FileNotFoundError:  # deleted in another tab
            return
    shutil.rmtree(grave, ignore_errors=True)
