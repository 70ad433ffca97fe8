"""The rooms of the package, from top to bottom: who may import whom, who does, and the picture of it."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = "nmerge_core"

# From the ground up: a module may import from its own room and from rooms on the floors above in this list.
FLOORS = (
    {"version", "places", "notebook", "interrupts"},
    {
        "errors",
        "progress",
        "machine",
        "cache",
        "candidates",
        "figures",
        "demo",
        "publishing",
        "evolution",
        "compiler",
        "compiler_cache",
        "lazy",
        "parallel",
        "comparison",
        "files",
        "task_yaml",
        "pictures",
    },
    {"distributed"},
    {"architecture"},
    {"checkpoints"},
    {"inputs", "kinds", "number_format", "corpus", "family"},
    {"parameters"},
    {"loading", "layerwise", "stored", "answers"},
    {"activations"},
    {"classification", "neuron", "similarity", "nonlinearity", "evaluation", "calibration", "lora"},
    {"inheritance"},
    {"merging.compute"},
    {"merging.recipe", "conflict"},
    {"merging.plan"},
    {"merging.write"},
    {"merging.methods", "merging.mergekit"},
    {"merging"},  # its pipeline, which goes through the rooms
    {"ablation", "core_space", "resident", "labelling"},
    {"search"},
    {"reports"},
    {"runs"},
    {"face"},
    {""},  # the package itself, which offers the face
    {"cli", "__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
_GROUND = FLOORS[0] | FLOORS[1]  # what every room may use: arrows to it would hide the others
_APP = "app.py, pages/"


def imported(file: Path, *, at_once: bool = False) -> set[str]:
    """Return the dotted names that a file imports, inside functions too unless `at_once`; `from a import b` is a.b."""
    names = set[str]()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def file_of(name: str) -> Path | None:
    """Return the package's file that a dotted name leads to: `nmerge_core.runs.folder.Run` → runs/folder.py."""
    parts = name.split(".")
    while parts and parts[0] == PACKAGE:
        path = ROOT.joinpath(*parts)
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
        parts.pop()
    return None


def room_of(file: Path) -> str:
    """Return the room a file lies in: a folder, or a file beside the folders; `merging` is divided into its own."""
    if not file.is_relative_to(ROOT / PACKAGE):
        return _APP
    parts = file.relative_to(ROOT / PACKAGE).with_suffix("").parts
    depth = 2 if parts[0] == "merging" and len(parts) > 2 else 1
    return ".".join(parts[:depth]).replace("__init__", "")


def sources(folder: str) -> list[Path]:
    """Return all Python files in a folder of the project."""
    return sorted((ROOT / folder).rglob("*.py"))


def arrows(files: list[Path]) -> Iterator[tuple[Path, Path]]:
    """Yield which of the files imports which other file of the package, for its types alone too."""
    for file in files:
        for name in sorted(imported(file)):
            if (target := file_of(name)) is not None and target != file:
                yield file, target


def document() -> str:
    """Write the made part of docs/architecture.md: an arrow for each use that does not follow from others."""
    rooms = [room for floor in reversed(FLOORS) for room in sorted(floor)]
    uses = {room: set[str]() for room in [_APP, *rooms] if room not in _GROUND}
    for file, target in arrows([ROOT / "app.py", *sources("pages"), *sources(PACKAGE)]):
        upper, lower = room_of(file), room_of(target)
        if upper != lower and not {upper, lower} & _GROUND:
            uses[upper].add(lower)
    below: dict[str, set[str]] = {}
    for room in TopologicalSorter(uses).static_order():
        below[room] = uses[room].union(*(below[used] for used in uses[room]))
    lines = ["```mermaid", "flowchart TD"]
    for room, used in uses.items():
        lines.append(f'    {_node(room)}["{_title(room)}"]')
        direct = used.difference(*(below[each] for each in used))
        lines += [f"    {_node(room)} --> {_node(each)}" for each in sorted(direct)]
    lines += ["```", "", "| floor | room | what is there |", "|---|---|---|"]
    lines += [f"| {FLOOR[room]} | `{_title(room)}` | {_sentence(room)} |" for room in rooms]
    return "\n".join(lines) + "\n"


def _node(room: str) -> str:
    return "app" if room == _APP else room.replace(".", "_") or PACKAGE


def _title(room: str) -> str:
    return _APP if room == _APP else room.replace(".", "/") or PACKAGE


def _sentence(room: str) -> str:
    """Return the first line of what a room says of itself."""
    path = ROOT.joinpath(PACKAGE, *filter(None, room.split(".")))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]
