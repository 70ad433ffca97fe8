"""Make what follows from the code in the documents of this folder: `python -m docs.make`."""

from collections.abc import Callable, Mapping
from pathlib import Path

from docs import layers, mergekit_examples, reference
from nmerge_core.merging.recipe import catalogue

FOLDER = Path(__file__).parent
MADE: Mapping[str, Callable[[], str]] = {
    "architecture.md": layers.document,
    "mergekit.md": mergekit_examples.document,
    "methods.md": catalogue.document,
    "python.md": reference.document,
}
MARK = "<!-- What follows is made by `python -m docs.make`. -->\n\n"


def made(name: str) -> str:
    """Return what a document should hold: what was written by hand above the mark, if it has one, and what is made."""
    by_hand, mark, _ = (FOLDER / name).read_text(encoding="utf-8").rpartition(MARK)
    return by_hand + mark + MADE[name]()


if __name__ == "__main__":
    for each in MADE:
        (FOLDER / each).write_text(made(each), encoding="utf-8")
