"""Who may import whom, what the page process stays free of, and that every dependency is declared."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "nmerge_core"

# From the ground up: a module may import from its own layer and those above it in this list.
LAYERS = (
    {"", "errors", "progress", "machine", "cache", "figures", "demo", "evolution", "lazy", "yaml_file"},
    {"architecture", "checkpoints"},
    {"number_format", "family"},
    {"loading", "skeleton", "corpus", "activations"},
    {"categories", "classification", "similarity", "linearity", "evaluation", "statistics"},
    {"merging"},  # some methods search by what a task or a text says of the candidate
    {"sweep", "knockout"},
    {"runs"},
    {"cli", "__main__"},
)
LAYER = {part: number for number, parts in enumerate(LAYERS) for part in parts}

HEAVY = {"torch", "numba", "transformers", "lm_eval", "datasets", "accelerate", "sacrebleu"}

# Requirements that are used without an import: as commands, or by the libraries that are imported.
TOOLS = {"mypy", "pytest-xdist", "ruff", "pyarrow", "sacrebleu"}
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


def part(module: str) -> str:
    """`nmerge_core.runs.folder.Run` → `runs`; a name of the package itself → ``."""
    second = module.split(".")[1]
    return second if (ROOT / PACKAGE / second).is_dir() or (ROOT / PACKAGE / f"{second}.py").is_file() else ""


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def own_part(file: Path) -> str:
    first = file.relative_to(ROOT / PACKAGE).parts[0]
    return first.removesuffix(".py").replace("__init__", "")


def test_imports_go_one_way() -> None:
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in sources(PACKAGE)
        for name in imported(file)
        if name.startswith(f"{PACKAGE}.") and LAYER[part(name)] > LAYER[own_part(file)]
    ]
    assert not wrong


def test_every_module_has_a_layer() -> None:
    assert {own_part(file) for file in sources(PACKAGE)} <= LAYER.keys()


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
    readers = {f"{PACKAGE}.{name}" for name in ("merging.run", "merging.loop", "checkpoints", "loading")}
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
        "importlib.import_module('nmerge_core.merging.registry').methods()\n"
        "importlib.import_module('nmerge_core.merging.estimate')\n"
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
