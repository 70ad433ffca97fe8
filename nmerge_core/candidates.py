"""The log of a family's candidates: every merge that was tried, numbered, with what it answered and scored."""

import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nmerge_core.cache import make_private
from nmerge_core.kept_files import Damaged, read_object, reading, remove, typed, write_json

KEPT = 200  # candidates that nobody pinned, named or wrote a note on; the oldest go first
_PROMPTS = "prompts.json"


@dataclass(frozen=True)
class Candidate:
    """A merge that was tried: its recipe as YAML, when it was first seen, and what is known of it.

    `answers` are by prompt, `scores` by what was scored.
    """

    number: int
    recipe: str
    tried: float
    name: str = ""
    note: str = ""
    pinned: bool = False
    answers: dict[str, str] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)

    @property
    def cared_for(self) -> bool:
        """Whether its owner said that it should stay."""
        return self.pinned or bool(self.name or self.note)


class CandidateLog:
    """The candidates of one family of a cache, each a file of its own, so that two pages never lose each other's."""

    def __init__(self, root: Path, family: str) -> None:
        """Look at the log of a family of the cache `root`, whether or not it is there yet."""
        self._root, self._folder = root, log_folder(root, family)

    def all(self) -> list[Candidate]:
        """Return every candidate, the oldest first; a file that is damaged is left out."""
        found = []
        for file in self._folder.glob("[0-9]*.json"):
            with suppress(Damaged):
                found.append(_read(file))
        return sorted(found, key=lambda candidate: candidate.number)

    def visit(self, recipe: str) -> Candidate:
        """Return the candidate of this recipe, under a new number where there is none yet.

        Raises:
            OSError: the cache cannot be written.
        """
        known = self.all()
        if same := next((each for each in known if each.recipe == recipe), None):
            return same
        self._folder.mkdir(parents=True, exist_ok=True)
        make_private(self._root)
        number = known[-1].number + 1 if known else 1
        while True:  # another page may take the number at the same moment
            try:
                os.close(os.open(self._file(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
                break
            except FileExistsError:
                number += 1
        new = Candidate(number, recipe, time.time())
        self._write(new)
        loose = [each for each in known if not each.cared_for]
        for old in loose[: max(0, len(loose) - KEPT + 1)]:
            remove(self._file(old.number))
        return new

    def get(self, number: int) -> Candidate | None:
        """Return the candidate of a number; None where there is none, or its file is damaged."""
        with suppress(Damaged):
            return _read(self._file(number))
        return None

    def change(self, number: int, **changed: Any) -> None:
        """Change what is known of a candidate; one that is gone stays gone."""
        found = self.get(number)
        if found is not None and replace(found, **changed) != found:
            self._write(replace(found, **changed))

    def learn(self, number: int, what: str, found: Mapping[str, Any]) -> None:
        """Add to a candidate's `answers` or `scores`."""
        candidate = self.get(number)
        if candidate is not None:
            self.change(number, **{what: {**getattr(candidate, what), **found}})

    def forget(self, number: int) -> None:
        """Take a candidate out of the log; its number is not given again while a later one is there."""
        remove(self._file(number))

    @property
    def prompts(self) -> list[str]:
        """The prompts that the family's merges are asked, in order."""
        file = self._folder / _PROMPTS
        if not file.exists():
            return []
        with suppress(Damaged):
            return [str(each) for each in read_object(file, {"prompts": list})["prompts"]]
        return []

    def keep_prompts(self, prompts: list[str]) -> None:
        """Keep the prompts that the family's merges are asked."""
        self._folder.mkdir(parents=True, exist_ok=True)
        make_private(self._root)
        write_json(self._folder / _PROMPTS, {"prompts": prompts}, mode=0o600)

    def _file(self, number: int) -> Path:
        return self._folder / f"{number}.json"

    def _write(self, candidate: Candidate) -> None:
        write_json(self._file(candidate.number), asdict(candidate), mode=0o600)


def log_folder(root: Path, family: str) -> Path:
    """Return where a cache keeps the candidates of a family."""
    return root / "candidates" / family


def move_log(root: Path, family: str, name: str) -> None:
    """Give a family's log to the name that it has now."""
    with suppress(FileNotFoundError):
        shutil.move(log_folder(root, family), log_folder(root, name))


def _read(file: Path) -> Candidate:
    content = read_object(file)
    with reading(file):
        return typed(Candidate, content, number=int(file.stem))
