"""Ways a file of a cache can be damaged, and a sweep that opens the pages after each: `python -m tests.app.damage`.

It damages every file of the runs and families of $NMERGE_CACHE, one at a time and puts it back, and prints how many
pages opened with an exception, by the file's name.
"""

import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PAGES = {
    "classify": "2_Neurons 3_Explorer",
    "cosine": "4_Similarity",
    "knockout": "5_Knockout",
    "effects": "5_Knockout",
    "linearity": "6_Linearity",
    "merge": "7_Merge 8_Evaluate",
    "evaluate": "8_Evaluate",
    "loss": "8_Evaluate",
    "sweep": "10_Sweep",
    "report": "11_Report",
    "families": "2_Neurons",
}


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _folder(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


def _other_json(path: Path) -> None:
    """Replace by JSON with what it had, each value of another type; by a list where it was none."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        content = None
    values = content.items() if isinstance(content, dict) else ()
    other = {key: ["other"] if isinstance(value, str) else "other" for key, value in values}
    path.write_text(json.dumps(other or []))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "emptied": lambda path: path.write_bytes(b""),
    "cut": _cut,
    "a folder": _folder,
    "bytes": lambda path: path.write_bytes(random.Random(0).randbytes(200)),
    "other JSON": _other_json,
    "a list": lambda path: path.write_text("[3]"),
}


@contextmanager
def damaged(path: Path, how: str) -> Iterator[None]:
    """Damage a file while the block lasts, and put it back, its time of change included."""
    kept = path.with_name(f".kept-{path.name}")
    shutil.copy2(path, kept)
    try:
        DAMAGES[how](path)
        yield
    finally:
        if path.is_dir():
            shutil.rmtree(path)
        kept.replace(path)


def files_of(root: Path) -> Iterator[tuple[str, Path]]:
    """Each file of the runs and families of a cache, with the kind of its run."""
    for file in sorted(path for top in ("runs", "families") for path in (root / top).rglob("*") if path.is_file()):
        place = file.relative_to(root).parts
        yield place[1].rpartition("-")[0] if place[0] == "runs" else "families", file


def main() -> None:
    """Sweep the cache, for the family named on the command line."""
    from nmerge_core.cache import cache_root
    from tests.app.conftest import at

    root, family = cache_root(), sys.argv[1]
    opened, failed = Counter[str](), Counter[str]()
    for kind, file in files_of(root):
        pages = ["9_Runs", *PAGES.get(kind, "").split()]
        for how in DAMAGES:
            for page in pages:
                app = at(f"pages/{page}.py")
                app.query_params["family"] = family
                if kind != "families":
                    app.query_params["run"] = file.relative_to(root).parts[1]
                with damaged(file, how):
                    app.run()
                name = file.name if kind != "families" else "families"
                opened[name] += 1
                if app.exception:
                    failed[name] += 1
                    print(f"{file.relative_to(root)} {how}, {page}: {app.exception[0].message}", file=sys.stderr)
    for name, number in opened.items():
        print(f"{name}: {failed[name]} of {number} opened with an exception")
    print(f"in all: {failed.total()} of {opened.total()}")


if __name__ == "__main__":
    main()
