"""Who may import whom, what the page process stays free of, and that every dependency is declared."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "nmerge_core"

# From the ground up: a module may import from its own room and from rooms on the floors above in this list.
FLOORS = (
    {"version", "places", "notebook"},
    {"errors", "progress", "machine", "cache", "figures", "demo", "evolution", "lazy", "parallel", "folders"},
    {"distributed"},
    {"architecture"},
    {"checkpoints"},
    {"inputs", "number_format", "corpus", "text_samples"},
    {"parameters"},
    {"input_parameters"},
    {"settings"},
    {"loading", "layerwise"},
    {"activations"},
    {"categories", "classification", "neuron", "similarity", "nonlinearity", "evaluation", "calibration", "lora"},
    {"merging.compute"},
    {"merging.recipe"},
    {"merging.plan"},
    {"merging.write"},
    {"merging.methods", "merging.mergekit"},
    {"merging"},  # its pipeline, which goes through the rooms
    {"search", "ablation"},
    {"runs"},
    {"face"},
    {""},  # the package itself, which offers the face
    {"cli", "__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

HEAVY = {"torch", "numba", "transformers", "lm_eval", "datasets", "accelerate", "sacrebleu"}

# Requirements that are used without an import: as commands, or by the libraries that are imported.
TOOLS = {"hatchling", "ipykernel", "mypy", "pytest-xdist", "ruff", "pyarrow", "sacrebleu"}
DISTRIBUTION = {"yaml": "pyyaml", "huggingface_hub": "huggingface-hub", "lm_eval": "lm-eval"}


def imported(file: Path, *, at_once: bool = False) -> set[str]:
    """Dotted names of a file's imports, those inside functions too unless `at_once`; `from a import b` is a.b."""
    names = set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def file_of(name: str) -> Path | None:
    """The file of the package that a dotted name leads to: `nmerge_core.runs.folder.Run` → runs/folder.py."""
    parts = name.split(".")
    while parts and parts[0] == PACKAGE:
        path = ROOT.joinpath(*parts)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
        parts.pop()
    return None


def room_of(file: Path) -> str:
    """The room a file lies in: a folder, or a file beside the folders; `merging` is divided into its own."""
    parts = file.relative_to(ROOT / PACKAGE).with_suffix("").parts
    depth = 2 if parts[0] == "merging" and len(parts) > 2 else 1
    return ".".join(parts[:depth]).replace("__init__", "")


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def arrows() -> list[tuple[Path, Path]]:
    """Which file of the package imports which other one, for its types alone too."""
    return [
        (file, target)
        for file in sources(PACKAGE)
        for name in sorted(imported(file))
        if (target := file_of(name)) is not None and target != file
    ]


def test_imports_go_one_way() -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {target.relative_to(ROOT)}"
        for file, target in arrows()
        if FLOOR[room_of(target)] > FLOOR[room_of(file)]
    ]
    assert not wrong


def test_every_module_has_a_floor() -> None:
    assert {room_of(file) for file in sources(PACKAGE)} == FLOOR.keys()


def test_no_files_import_each_other_in_a_circle() -> None:
    imports: dict[Path, set[Path]] = {}
    for file, target in arrows():
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
    wrong = [
        f"{file.name} imports {name}"
        for file in files
        for name in imported(file)
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
    files = [ROOT / "app.py", *sources("pages"), *sources(PACKAGE), *sources("tests")]
    top = {name.split(".")[0] for file in files for name in imported(file)}
    local = {PACKAGE, "pages", "tests", "app"}
    third_party = {DISTRIBUTION.get(name, name.lower()) for name in top - local - set(sys.stdlib_module_names)}
    assert third_party - requirements().keys() == set()
    assert requirements().keys() - third_party - TOOLS == set()


def test_every_requirement_says_why() -> None:
    lines = requirement_lines()
    silent = [line for before, line in zip(["", *lines], lines, strict=False) if "==" in line and before[:2] != "# "]
    assert not silent
