"""The trials of a sweep in Optuna's journal, which several processes, on several machines, read and write.

A trial is given out once. Who does it is written beside it; what a process that is gone has begun, the next one takes
over. All that decides is done by one process at a time, in its turn.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from nmerge_core.errors import InputError
from nmerge_core.files.kept_files import reading
from nmerge_core.search.plan import Sweep
from nmerge_core.search.presence import Others, Presence
from nmerge_core.search.samplers import draw, grid, make_pruner, make_sampler
from nmerge_core.search.scoring import Measured
from nmerge_core.search.trials import Trial

if TYPE_CHECKING:
    from optuna.storages import JournalStorage
    from optuna.trial import FrozenTrial
    from optuna.trial import Trial as Drawing

JOURNAL = "journal.log"
_TREES = 32  # of fANOVA's forest: Optuna's 64 take twice as long and tell the same
_PROCESSES, _TURN, _STUDY = ".processes", ".turn", "sweep"
_OWNER, _POINT, _FOUND, _WRITER = "owner", "point", "found", "writer"


@dataclass(frozen=True)
class Taken:
    """A trial that this process does: its number from 1, and its point."""

    number: int
    point: Mapping[str, Any]
    id: int  # the storage's own


class SharedTrials:
    """The trials of a sweep, as one process takes part in them, from `with` on."""

    def __init__(self, folder: Path, plan: Sweep) -> None:
        """Open the journal in a folder that is there, or begin it."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._folder, self._plan = folder, plan
        self._presence, self._others = Presence(folder / _PROCESSES), Others(folder / _PROCESSES)
        with turn(folder):
            self._storage = _open_journal(folder / JOURNAL)
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=_STUDY,
                directions=["maximize"] * len(plan.objectives),
                sampler=make_sampler(plan.strategy, plan.seed, 0),
                pruner=make_pruner(plan.prune),
                load_if_exists=True,
            )
            if plan.strategy == "grid" and len(self._trials()) < len(points := grid(plan.axes)):
                for point in points[len(self._trials()) :]:
                    self._study.enqueue_trial(point)

    def __enter__(self) -> Self:
        """Take part."""
        self._presence.__enter__()
        return self

    def __exit__(self, *how: Any) -> None:
        """Leave to others what is not finished."""
        self._presence.__exit__(*how)

    def take(self, *, more: bool = True) -> Taken | None:
        """Take a trial that nobody does any more, or the next; None where there is none, or no `more` are wanted."""
        from optuna.trial import Trial as Drawing

        with turn(self._folder):
            trials = self._trials()
            for trial in trials:
                if trial.state.name == "RUNNING" and self._is_free(trial):
                    return self._mine(Drawing(self._study, self._id(trial.number)))
            waiting = any(trial.state.name == "WAITING" for trial in trials)
            full = self._plan.trials is not None and len(trials) >= self._plan.trials
            if not more or (full and not waiting):
                return None
            number = min((t.number for t in trials if t.state.name == "WAITING"), default=len(trials))
            self._study.sampler = make_sampler(self._plan.strategy, self._plan.seed, number)
            return self._mine(self._study.ask())

    @property
    def others_at_work(self) -> bool:
        """Whether another process has a trial in hand."""
        return any(trial.state.name == "RUNNING" and not self._is_free(trial) for trial in self._trials())

    def hopeless(self, taken: Taken, values: Mapping[int, float]) -> bool:
        """Note what parts of a trial's problems scored, by their numbers; return whether the rest is not worth it."""
        known = self._storage.get_trial(taken.id).intermediate_values  # of who did it before
        for step, value in values.items():
            if step not in known:
                self._storage.set_trial_intermediate_value(taken.id, step, value)
        return self._study.pruner.prune(self._study, self._storage.get_trial(taken.id))

    def owns(self, taken: Taken) -> bool:
        """Whether a trial is still this process's: another may have taken it over from one that seemed to be gone."""
        return self._storage.get_trial(taken.id).user_attrs.get(_OWNER) == self._presence.name

    def finish(
        self, taken: Taken, measured: Measured | None, failure: str = "", *, seconds: float, merging: float
    ) -> None:
        """Write down what a trial measured, in this process's turn; nothing where it was pruned, or why it failed."""
        from optuna.trial import TrialState

        found: dict[str, Any] = {"seconds": seconds, "merging": merging, "pruned": measured is None}
        found |= {"failure": failure} if failure else {}
        found |= {"scores": dict(measured.scores), "objectives": list(measured.objectives)} if measured else {}
        self._storage.set_trial_user_attr(taken.id, _FOUND, found)
        if measured is None:
            self._study.tell(taken.number - 1, state=TrialState.FAIL if failure else TrialState.PRUNED)
        elif all(value == value for value in measured.objectives):
            self._study.tell(taken.number - 1, list(measured.objectives))
        else:
            self._study.tell(taken.number - 1, state=TrialState.FAIL)

    def finished(self) -> list[Trial]:
        """Return the trials that are finished, in order."""
        ended = [trial for trial in self._trials() if trial.state.is_finished() and _FOUND in trial.user_attrs]
        return [_trial(each) for each in ended]

    def importances(self) -> dict[str, float]:
        """Return how much of the objective's differences each key makes, in sum 1 (fANOVA; Hutter et al., ICML 2014).

        Of several objectives, or of too few trials to tell, nothing.
        """
        from optuna.importance import FanovaImportanceEvaluator, get_param_importances

        done = [trial for trial in self._trials() if trial.state.name == "COMPLETE"]
        if len(self._plan.objectives) > 1 or len(self._plan.axes) < 2 or len({trial.value for trial in done}) < 4:
            return {}
        found = get_param_importances(self._study, evaluator=FanovaImportanceEvaluator(n_trees=_TREES, seed=0))
        return {key: float(share) for key, share in found.items()}

    def may_write(self) -> bool:
        """Whether this process is the one that writes checkpoints now; it is, where none is that is still there."""
        with turn(self._folder):
            writer = self._study.user_attrs.get(_WRITER)
            if writer and writer != self._presence.name and not self._others.gone(writer):
                return False
            self._study.set_user_attr(_WRITER, self._presence.name)
            return True

    def written(self) -> None:
        """Let another process write."""
        self._study.set_user_attr(_WRITER, "")

    def _trials(self) -> "list[FrozenTrial]":
        return self._study.get_trials(deepcopy=False)

    def _is_free(self, trial: "FrozenTrial") -> bool:
        owner = trial.user_attrs.get(_OWNER)
        return owner != self._presence.name and (owner is None or self._others.gone(owner))

    def _id(self, number: int) -> int:
        study = self._storage.get_study_id_from_name(_STUDY)
        return self._storage.get_trial_id_from_study_id_trial_number(study, number)

    def _mine(self, trial: "Drawing") -> Taken:
        """Write this process beside a trial that is given out, and the point that it has, or draws now."""
        known = trial.user_attrs
        if owner := known.get(_OWNER):
            self._others.forget(owner)
        point = known.get(_POINT)
        if point is None:  # it is new, or whoever began it was lost before it had one
            point = draw(trial, self._plan.axes, ordered=self._plan.strategy == "cma")
            trial.set_user_attr(_POINT, point)
        trial.set_user_attr(_OWNER, self._presence.name)
        return Taken(trial.number + 1, point, self._id(trial.number))


def _trial(ended: "FrozenTrial") -> Trial:
    found = ended.user_attrs[_FOUND]
    return Trial(
        ended.number + 1,
        ended.user_attrs[_POINT],
        found.get("scores", {}),
        found.get("objectives", ()),
        found["pruned"],
        found["seconds"],
        found["merging"],
        found.get("failure", ""),
    )


def _open_journal(file: Path) -> "JournalStorage":
    """Open a journal, without the line that a kill or a full disk has cut off; raises Damaged where it is none."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    lock = JournalFileSymlinkLock(str(file))
    if file.exists():
        lock.acquire()
        try:
            with reading(file):
                content = file.read_bytes()
                whole = content.rfind(b"\n") + 1
                for line in content[:whole].splitlines():
                    json.loads(line)["op_code"]
            if whole < len(content):
                os.truncate(file, whole)
        finally:
            lock.release()
    return JournalStorage(JournalFileBackend(str(file), lock))


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Be the only process that changes a sweep's folder; on file systems that several machines share, too."""
    from optuna.storages.journal import JournalFileOpenLock

    lock = JournalFileOpenLock(str(folder / _TURN))
    try:
        lock.acquire()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); name another folder") from error
    try:
        yield
    finally:
        lock.release()
