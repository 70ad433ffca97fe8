"""What a visit knows of quick scores, and how it asks the worker for more: some problems at a time, none twice."""

import json
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nmerge_core.cache import cache_root
from nmerge_core.errors import InputError
from nmerge_core.inputs import Places
from pages.shared.tuning.quick_board import MERGE, Row, Scored, Standing, next_to_score, standings

SECONDS = 60.0  # that an answer may take: the first ones read the tasks and the models
AT_ONCE = 0.6  # seconds of asking in a row, after which another sight may have its turn
_REMEMBERED = 256  # models and merges whose scores a visit keeps

Ask = Callable[..., Any]  # `runs.client.ask`


@dataclass(frozen=True)
class Sight:
    """What is scored on what: `models` are what a merge is made of, by what they are called.

    `keys` tell the content of each, and of the merge as `MERGE`; of each task or category `count` problems are scored.
    """

    recipe: Mapping[str, Any]
    models: Mapping[str, str]
    keys: Mapping[str, Hashable]
    count: int
    tasks: tuple[str, ...] = ()
    corpus: str | None = None
    run_code: bool = False
    allow_task_code: bool = False

    @property
    def asked(self) -> dict[str, Any]:
        """What the worker is asked for the problems by."""
        allowed = {"run_code": self.run_code, "allow_task_code": self.allow_task_code}
        return {"tasks": list(self.tasks), "corpus": self.corpus, **allowed}

    @property
    def content(self) -> str:
        """What tells these problems from others, or from what their files were before."""
        places = Places(cache_root())
        found = [places.corpus(self.corpus)] if self.corpus else []
        for task in self.tasks:
            try:
                found.append(places.task(task))
            except InputError as error:  # the worker says it in the task's row
                found.append((task, str(error)))
        return json.dumps([self.asked, found])


@dataclass
class Memory:
    """What came so far: the rows of problems by content, what each model scored on each row, and what failed.

    `lost` counts the answers of each model that did not come, one after the other. `asking` is the thread that asks
    meanwhile, and `raised` what it raised last, with the problems and models that it asked for.
    """

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    scored: dict[Hashable, dict[str, Scored]] = field(default_factory=dict)
    failed: dict[tuple[Hashable, str], str] = field(default_factory=dict)
    lost: dict[Hashable, int] = field(default_factory=dict)
    raised: tuple[Sight, Exception] | None = None
    asking: threading.Thread | None = None

    def rows_of(self, sight: Sight) -> list[Row] | None:
        """Return the rows that can be scored; None while the problems are not known."""
        found = self.rows.get(sight.content)
        if found is None:
            return None
        return [
            Row(
                each["name"],
                each["metric"],
                each["higher_is_better"],
                min(sight.count, each["count"]),
                json.dumps(each["source"], sort_keys=True),
                each["said"],
            )
            for each in found
            if "lacks" not in each
        ]

    def lacking(self, sight: Sight) -> dict[str, str]:
        """Return why some tasks cannot be scored, by their names."""
        return {each["name"]: each["lacks"] for each in self.rows.get(sight.content, ()) if "lacks" in each}

    def failures(self, sight: Sight, rows: Sequence[Row]) -> list[str]:
        """Return why some models cannot be scored, each reason once."""
        found = (self.failed.get((key, row.key)) for key in sight.keys.values() for row in rows)
        return list(dict.fromkeys(reason for reason in found if reason))

    def forgive(self, sight: Sight) -> None:
        """Forget what failed, so that it is asked for again."""
        keys = set(sight.keys.values())
        self.failed = {where: reason for where, reason in [*self.failed.items()] if where[0] not in keys}
        self.lost.clear()

    def board(self, sight: Sight, rows: Sequence[Row]) -> dict[str, dict[str, Scored]]:
        """Return what each model scored on each row, no more than the row's problems."""
        return {
            name: {row.title: own[row.key].first(row.count) for row in rows if row.key in own}
            for name, key in sight.keys.items()
            if (own := self.scored.get(key, {}))
        }

    def unfinished(self, sight: Sight) -> bool:
        """Whether there is more to ask for."""
        rows = self.rows_of(sight)
        return rows is None or self._next(sight, rows) is not None

    def _next(self, sight: Sight, rows: Sequence[Row]) -> tuple[str, Row, int] | None:
        """Return what to score next, of the merge first."""
        return next_to_score(rows, [MERGE, *sight.models], self.board(sight, rows), self._given_up(sight, rows))

    def _given_up(self, sight: Sight, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """Return what failed, by the model and the title of the row."""
        return [(name, row.title) for name, key in sight.keys.items() for row in rows if (key, row.key) in self.failed]

    def advance_meanwhile(self, sight: Sight, ask: Ask) -> None:
        """Advance in a thread of its own, if none does: a page that waited for a worker would hear no click.

        Raises:
            TimeoutError: the last one did, asking for the same (as `advance`).
            RuntimeError: likewise.
        """
        if self.asking is not None and self.asking.is_alive():
            return
        raised, self.raised = self.raised, None
        self.asking = threading.Thread(target=self._advance_quietly, args=(sight, ask), daemon=True)
        self.asking.start()
        if raised is not None and raised[0] == sight:
            raise raised[1]

    def _advance_quietly(self, sight: Sight, ask: Ask) -> None:
        try:
            self.advance(sight, ask)
        except Exception as error:  # for whoever looks
            self.raised = sight, error

    def advance(self, sight: Sight, ask: Ask) -> None:
        """Ask for the problems, or for scores until some time has passed, and keep what comes.

        Raises:
            TimeoutError: as `client.ask`; what came before is kept, and what does not come twice is not asked again.
            RuntimeError: likewise.
        """
        rows = self.rows_of(sight)
        if rows is None:
            self.rows[sight.content] = ask("problems", timeout=SECONDS, **sight.asked)
            return
        until = time.monotonic() + AT_ONCE
        while time.monotonic() < until and (wanted := self._next(sight, rows)) is not None:
            name, row, start = wanted
            key = sight.keys[name]
            whose = {"recipe": dict(sight.recipe)} if name == MERGE else {"model": sight.models[name]}
            asked = {"source": json.loads(row.source), "name": row.name, "start": start, "stop": row.count}
            try:
                answer = ask("quick_scores", timeout=SECONDS, **asked, **whose)
            except InputError as error:
                self.failed[key, row.key] = str(error)
            except (TimeoutError, RuntimeError) as error:
                self.lost[key] = self.lost.get(key, 0) + 1
                if self.lost[key] > 1:  # it takes too long, or it is what the worker dies of
                    self.failed |= {(key, each.key): str(error) for each in rows}
                raise
            else:
                self.lost.pop(key, None)
                own = self.scored.setdefault(key, {})
                own[row.key] = own.get(row.key, Scored()).plus(answer)
        while len(self.scored) > _REMEMBERED:
            self.scored.pop(next(iter(self.scored)))

    def standings(self, sight: Sight, rows: Sequence[Row], against: str) -> list[Standing]:
        """Return how the merge stands in each row."""
        return standings(rows, list(sight.models), self.board(sight, rows), against, self._given_up(sight, rows))
