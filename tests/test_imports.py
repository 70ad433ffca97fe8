"""Who may import whom, what the page process stays free of, and that every dependency is declared."""

import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from docs.layers import FLOOR, PACKAGE, ROOT, arrows, imported, room_of, sources

HEAVY = {"torch", "numba", "transformers", "lm_eval", "datasets", "accelerate", "sacrebleu"}

# Requirements that are used without an import: as commands, or by the libraries that are imported.
TOOLS = {"hatchling", "ipykernel", "mypy", "pytest-xdist", "ruff", "pyarrow", "sacrebleu", "cmaes", "scikit-learn"}
DISTRIBUTION = {"yaml": "pyyaml", "huggingface_hub": "huggingface-hub", "lm_eval": "lm-eval", "PIL": "pillow"}


def test_imports_go_one_way() -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {target.relative_to(ROOT)}"
        for file, target in arrows(sources(PACKAGE))
        if FLOOR[room_of(target)] > FLOOR[room_of(file)]
    ]
    assert not wrong


def test_every_module_has_a_floor() -> None:
    assert {room_of(file) for file in sources(PACKAGE)} == FLOOR.keys()


def test_rooms_of_the_pages_are_used_in_one_direction() -> None:
    shared = ROOT / "pages" / "shared"
    used: dict[str, set[str]] = {folder.name: set() for folder in shared.iterdir() if (folder / "__init__.py").exists()}
    for file in sources("pages/shared"):
        for name in imported(file):
            _, _, inside = name.partition("pages.shared.")
            if inside and file.parent != shared:
                used[file.parent.name].add(inside.split(".")[0])
    TopologicalSorter({room: others - {room} for room, others in used.items()}).prepare()  # CycleError, with the circle
    assert len(used) > 5


def test_no_files_import_each_other_in_a_circle() -> None:
    imports: dict[Path, set[Path]] = {}
    for file, target in arrows(sources(PACKAGE)):
        if file.name != "__init__.py":  # the face of a room imports what it offers
            imports.setdefault(file, set()).add(target)
    seen: set[Path] = set()

    def visit(file: Path, trail: tuple[Path, ...]) -> None:
        assert file not in trail, " → ".join(str(each.relative_to(ROOT)) for each in (*trail, file))
        if file not in seen:
            for target in imports.get(file, ()):
                visit(target, (*trail, file))
            seen.add(file)

    for file in sources(PACKAGE):
        visit(file, ())


def test_core_knows_neither_streamlit_nor_the_pages() -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in sources(PACKAGE)
        for name in imported(file)
        if name.split(".")[0] in {"streamlit", "pages", "app"}
    ]
    assert not wrong


def test_a_merge_method_knows_no_other_method_and_no_reader() -> None:
    methods = ROOT / PACKAGE / "merging" / "methods"
    files = [file for file in sources(f"{PACKAGE}/merging/methods") if file.name != "__init__.py"]
    assert files
    others = {f"{PACKAGE}.merging.methods.{file.stem}" for file in methods.glob("*.py")}
    readers = {f"{PACKAGE}.{name}" for name in ("merging.pipeline", "merging.loop", "checkpoints", "loading")}
    forbidden = others | readers
    stored = f"{PACKAGE}.checkpoints.raw_bits.RawBits"  # the type of what a compiled loop is given
    wrong = [
        f"{file.name} imports {name}"
        for file in files
        for name in imported(file) - {stored}
        if any(name == module or name.startswith(f"{module}.") for module in forbidden)
    ]
    assert not wrong


def modules_of_pages() -> list[str]:
    """Every module of the core that a page, or what pages share, imports before it draws anything."""
    files = [ROOT / "app.py", *sources("pages")]
    names = {name for file in files for name in imported(file, at_once=True) if name.startswith(PACKAGE)}
    modules = set()
    for name in names:
        parts = name.split(".")
        while not (ROOT / "/".join(parts)).is_dir() and not (ROOT / "/".join(parts)).with_suffix(".py").is_file():
            parts.pop()
        modules.add(".".join(parts))
    return sorted(modules)


def test_pages_import_nothing_heavy() -> None:
    """A page is drawn at once, and so are the merge methods and the estimate of a merge."""
    modules = modules_of_pages()
    assert modules
    program = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = {HEAVY!r} & sys.modules.keys()\n"
        "    assert not heavy, f'{name} imports {sorted(heavy)}'\n"
        "importlib.import_module('nmerge_core.merging.recipe.registry').methods()\n"
        "importlib.import_module('nmerge_core.merging.plan.estimate')\n"
        f"heavy = {HEAVY!r} & sys.modules.keys()\n"
        "assert not heavy, f'the merge methods import {sorted(heavy)}'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", [ROOT / "app.py", *sources("pages")], ids=lambda file: file.name)
def test_a_page_names_nothing_heavy(file: Path) -> None:
    assert not {name.split(".")[0] for name in imported(file)} & HEAVY


def requirement_lines() -> list[str]:
    """The lines of what is required and of what is optional, each with the reason above it."""
    return [line for file in sorted(ROOT.glob("requirements*.txt")) for line in file.read_text("utf-8").splitlines()]


def requirements() -> dict[str, str]:
    lines = requirement_lines()
    pins = [line.split("==") for line in lines if line.strip() and not line.startswith("#")]
    assert all(len(pin) == 2 for pin in pins), "pin every requirement with =="
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins}


def test_imports_and_requirements_agree() -> None:
    """What is imported is pinned, and what is pinned is imported."""
    files = [ROOT / "app.py", ROOT / "server.py", *sources("pages"), *sources(PACKAGE), *sources("tests")]
    top = {name.split(".")[0] for file in files for name in imported(file)}
    local = {PACKAGE, "pages", "tests", "app", "docs"}
    third_party = {DISTRIBUTION.get(name, name.lower()) for name in top - local - set(sys.stdlib_module_names)}
    assert third_party - requirements().keys() == set()
    assert requirements().keys() - third_party - TOOLS == set()


def test_every_requirement_says_why() -> None:
    lines = requirement_lines()
    silent = [line for before, line in zip(["", *lines], lines, strict=False) if "==" in line and before[:2] != "# "]
    assert not silent
