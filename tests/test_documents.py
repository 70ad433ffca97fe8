"""What the documents say follows from the code, and does so today."""

import re
from pathlib import Path

import pytest

from docs.make import FOLDER, MADE, made

ROOT = FOLDER.parent
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "cache/README.md")),
    *sorted(FOLDER.glob("*.md")),
]


@pytest.mark.parametrize("name", MADE)
def test_what_is_made_is_current(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == made(name), "make it again: python -m docs.make"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target, anchor in re.findall(
        r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", document.read_text(encoding="utf-8")
    ):
        file = document.parent / target if target else document
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}
            assert anchor in anchors, f"{target}#{anchor}"
