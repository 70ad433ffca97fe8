"""What was asked about neurons and answered, a line of JSON each: a labelling that was stopped goes on."""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from nmerge_core.files.kept_files import reading, typed

ASKED = "asked.jsonl"
LABEL, DETECTION = "label", "detection"  # what questions are about


@dataclass(frozen=True)
class Asked:
    """A question about a neuron and its answer; `seconds` until it was there, busy servers included."""

    layer: int
    neuron: int
    about: str
    prompt: str
    answer: str
    prompt_tokens: int
    answer_tokens: int
    seconds: float


def append(folder: Path, asked: Asked) -> None:
    """Write it down, to stay there whatever happens next."""
    with (folder / ASKED).open("a", encoding="utf-8") as file:
        # On a line of its own, whatever a process that was killed has left; escaped, as answers may hold half a pair.
        file.write(f"\n{json.dumps(asdict(asked))}")
        file.flush()
        os.fsync(file.fileno())


def read_asked(folder: Path) -> list[Asked]:
    """Read what was written down; a line that is not as it was written, to its end, is passed over."""
    file = folder / ASKED
    if not file.exists():
        return []
    with reading(file):
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    found = []
    for line in filter(None, lines):
        with suppress(ValueError, TypeError):
            found.append(typed(Asked, json.loads(line)))
    return found


def by_question(asked: Iterable[Asked]) -> dict[tuple[int, int, str], Asked]:
    """Return questions and answers by layer, neuron and what they are about."""
    return {(each.layer, each.neuron, each.about): each for each in asked}
