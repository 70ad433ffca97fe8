"""The log of a family's candidates: every merge that was tried, numbered, with what it answered and scored."""

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nmerge_core.cache import make_private
from nmerge_core.files.kept_files import Damaged, changing, read_object, reading, remove, typed, write_json, write_text

KEPT = 200  # candidates that nobody pinned, named or wrote a note on; the oldest go first
_PROMPTS, _LAST, _SHOWN = "prompts.json", "last", "shown"


@dataclass(frozen=True)
class Score:
    """What a candidate scored, with its 95 % interval, on so many problems."""

    metric: str
    value: float
    low: float
    high: float
    problems: int


@dataclass(frozen=True)
class Candidate:
    """A merge that was tried: its recipe as YAML, when it was first seen, and what is known of it.

    `answers` are by what was asked, `scores`, the fields of `Score`, by what was scored.
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
    """The candidates of one family of a cache, each a file of its own.

    Pages change them one after the other, under a lock. What writes raises OSError where the cache cannot be written.
    """

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
        """Return the candidate of this recipe, under a new number where there is none yet; it is now `last_shown`."""
        found = self._same(recipe)
        if found is None:
            with self._changing():
                found = self._same(recipe) or self._add(recipe)  # another page may have been quicker
        shown = self._folder / _SHOWN
        with suppress(OSError):  # where nothing can be written the newest is shown
            if not shown.exists() or shown.read_text() != str(found.number):
                write_text(shown, str(found.number), mode=0o600)
        return found

    @property
    def last_shown(self) -> Candidate | None:
        """The candidate that was visited last, else the newest; None where there is none."""
        with suppress(OSError, ValueError):
            if found := self.get(int((self._folder / _SHOWN).read_text())):
                return found
        return next(reversed(self.all()), None)

    def _same(self, recipe: str) -> Candidate | None:
        return next((each for each in self.all() if each.recipe == recipe), None)

    def _add(self, recipe: str) -> Candidate:
        known = self.all()
        last = self._folder / _LAST  # a number stands for one merge for ever, also when that was forgotten
        taken = [int(file.stem) for file in self._folder.glob("[0-9]*.json") if file.stem.isdecimal()]
        with suppress(OSError, ValueError):
            taken.append(int(last.read_text()))
        new = Candidate(max(taken, default=0) + 1, recipe, time.time())
        last.write_text(str(new.number))
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
        with self._changing():
            found = self.get(number)
            if found is not None and replace(found, **changed) != found:
                self._write(replace(found, **changed))

    def learn(self, number: int, what: str, found: Mapping[str, Any]) -> None:
        """Add to a candidate's `answers` or `scores`."""
        known = self.get(number)
        if known is None or all(getattr(known, what).get(key) == each for key, each in found.items()):
            return
        with self._changing():
            candidate = self.get(number)
            if candidate is not None:
                more: dict[str, Any] = {what: {**getattr(candidate, what), **found}}
                self._write(replace(candidate, **more))

    def forget(self, number: int) -> None:
        """Take a candidate out of the log; its number is not given again."""
        remove(self._file(number))

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Keep other pages from changing the log while the block lasts."""
        with changing(self._folder):
            make_private(self._root)
            yield

    @property
    def prompts(self) -> list[str]:
        """The prompts that the family's merges are asked, in order."""
        file = self._folder / _PROMPTS
        if not file.exists():
            return []
        with suppress(Damaged):
            return [each for each in read_object(file, {"prompts": list})["prompts"] if isinstance(each, str)]
        return []

    def keep_prompt(self, prompt: str) -> None:
        """Keep a prompt that the family's merges are asked."""
        self._put_prompts([prompt], [])

    def forget_prompt(self, prompt: str) -> None:
        """Keep a prompt no more."""
        self._put_prompts([], [prompt])

    def _put_prompts(self, more: list[str], fewer: list[str]) -> None:
        with self._changing():
            kept = [each for each in dict.fromkeys([*self.prompts, *more]) if each not in fewer]
            write_json(self._folder / _PROMPTS, {"prompts": kept}, mode=0o600)

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
        found = typed(Candidate, content, number=int(file.stem))
        for known in found.scores.values():
            typed(Score, known)
        if not all(isinstance(answer, str) for answer in found.answers.values()):
            raise TypeError("answers: found something else than text")
        return found
