"""What a task YAML of lm-evaluation-harness would run on this machine, found without running any of it."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import yaml

from nmerge_core.cache import BENCHMARKS, LOCAL, cache_root, task_file
from nmerge_core.errors import InputError
from nmerge_core.files.small_file import read_small
from nmerge_core.files.yaml_file import LARGEST, compose
from nmerge_core.places import PACKAGE
from nmerge_core.task_yaml.files import yamls_below

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # lm-eval's own, or one that reads the same
_PLAIN = "tag:yaml.org,2002:"
_PYTHON = f"{_PLAIN}python/"
_YES = ("true", "yes", "on")
_SHOWN = 80

# The one function that a task of anybody's may name: code tasks need it, and it only reads what the sandbox said.
_HARMLESS = "nmerge_core.evaluation.code.pass_at_1"
# Those that lm-eval has; it looks for any other in Hugging Face's `evaluate`, which runs a script of that name.
METRICS = frozenset(
    "acc acc_all acc_bytes acc_mutual_info acc_norm bits_per_byte bleu brier_score bypass byte_perplexity chrf chrf++ "
    "exact_match f1 likelihood mcc perplexity ter word_perplexity".split()
)
_SCHEMES = ("file", "http", "https", "hf", "s3", "gs")  # fsspec knows dozens, some of which start programs


@dataclass(frozen=True)
class Wanted:
    """One thing that a task would run: where it is said, and what it is."""

    file: Path
    line: int
    what: str

    def __str__(self) -> str:
        """Say where and what, on one line."""
        return f"{self.file}, line {self.line}: {self.what}"


@dataclass(frozen=True)
class _Read:
    """What a YAML says: what it would run, what it includes, and the names of tasks, groups and tags it has.

    `generated` says whether what a model writes is run.
    """

    wanted: tuple[Wanted, ...] = ()
    includes: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()
    grouped: bool = False
    generated: bool = False


def runs_code(task: str) -> bool:
    """Whether a task runs what a model writes, as its YAML says, one that it includes, or a member of its group."""
    file = task_file(task, cache_root())
    return file is not None and any(read.generated for read in _read_by(file.resolve()).values())


def own_code(task: Path) -> list[Wanted]:
    """Return all that a task's YAML, those it includes and, of a group, its members would run; of trusted ones nothing.

    Trusted are the tasks that come with NMerge and with lm-eval, by where the file lies. One that includes them is not:
    what they run may be harmless only as they call it.
    """
    start = task.resolve()
    return [] if _trusted(start) else [each for read in _read_by(start).values() for each in read.wanted]


def place_of(task: Path, text: str) -> str:
    """Return the file and line where a task's YAML, or one that it includes, holds a text; the task where none does."""
    for file in _with_includes([task.resolve()]):
        with suppress(InputError, yaml.YAMLError):
            for _, _, node in _pairs(compose(read_small(file, LARGEST), str(file), _LOADER)):
                if node.value == text:
                    return f"{file}, line {node.start_mark.line + 1}"
    return str(task)


def _trusted(file: Path) -> bool:
    return any(file.is_relative_to(folder) for folder in _trusted_folders())


@lru_cache(maxsize=1)
def _trusted_folders() -> tuple[Path, ...]:
    lm_eval = find_spec("lm_eval")  # not imported: pages ask too
    places = lm_eval.submodule_search_locations if lm_eval else None
    return (BENCHMARKS, LOCAL, PACKAGE / "demo", *(Path(place).resolve() / "tasks" for place in places or ()))


def _read_by(task: Path) -> dict[Path, _Read]:
    """Return what the YAML of a task says, those that it includes and, of a group, its members."""
    files = _with_includes([task])
    return _with_members(task.parent, files) if any(read.grouped for read in files.values()) else files


def _with_includes(files: list[Path]) -> dict[Path, _Read]:
    found: dict[Path, _Read] = {}
    while files:
        file = files.pop()
        if file not in found and file.is_file():
            status = file.stat()
            found[file] = _read(file, status.st_size, status.st_mtime_ns)
            files += [(file.parent / include).resolve() for include in found[file].includes]
    return found


def _with_members(folder: Path, files: dict[Path, _Read]) -> dict[Path, _Read]:
    """Add every YAML below a group's folder, where lm-eval looks for members, that shares a name with those there."""
    try:
        near = yamls_below(folder)
    except InputError as error:
        first = next(iter(files))
        return {first: replace(files[first], wanted=(Wanted(first, 1, f"any member in its folder ({error})"),))}
    around = {path: _with_includes([path.resolve()]) for path in near}
    names = {name for read in files.values() for name in read.names}
    while True:
        shared = [path for path, tree in around.items() if any(read.names & names for read in tree.values())]
        if not shared:
            return files
        for tree in (around.pop(path) for path in shared):
            files = {**files, **tree}
            names.update(name for read in tree.values() for name in read.names)


@lru_cache(maxsize=512)
def _read(file: Path, size: int, modified: int) -> _Read:
    """Read what a YAML would run; `modified` is there to make the cache forget a rewritten file.

    What holds more than is looked at here may run anything.
    """
    try:
        root = compose(read_small(file, LARGEST), str(file), _LOADER)
    except InputError as error:
        return _Read((Wanted(file, 1, str(error).removeprefix(f"{file}: ")),))
    except (yaml.YAMLError, ValueError):  # lm-eval says what is wrong: it cannot load it either
        return _Read()
    pairs = list(_pairs(root))
    keys = {key for key, _, _ in pairs}
    wanted = dict.fromkeys(
        Wanted(file, node.start_mark.line + 1, f"{key}: {what}" if key else what)
        for key, parent, node in pairs
        for what in _wishes(file, key, parent, node, "process_results" in keys)
    )
    return _Read(
        tuple(wanted),
        tuple(node.value for key, _, node in pairs if key == "include" and node.value),
        frozenset(node.value for key, _, node in pairs if key in ("task", "group", "tag", "task_list") and node.value),
        "group" in keys,
        any(key == "unsafe_code" and node.value.lower() in _YES for key, _, node in pairs),
    )


def _wishes(file: Path, key: str, parent: str, node: yaml.ScalarNode, own_results: bool) -> Iterator[str]:
    value = node.value if len(node.value) <= _SHOWN else node.value[:_SHOWN] + "…"
    if not node.tag.startswith(_PLAIN) or node.tag.startswith(_PYTHON):
        shadow = file.parent / f"{_HARMLESS.rpartition('.')[0].replace('.', '/')}.py"
        if (node.tag, node.value) != ("!function", _HARMLESS) or shadow.exists():
            yield f"{node.tag} {value}".strip()
    elif key == "hf_evaluate" and node.value.lower() in _YES:
        yield f"{value}, a script of Hugging Face's evaluate"
    elif key == "metric" and parent == "metric_list" and node.value not in METRICS and not own_results:
        yield f"{value}, which lm-eval does not have: a script of Hugging Face's evaluate"
    elif key == "use_prompt" and not node.value.startswith("qa-basic:") and node.value:
        yield f"{value}, prompts that are loaded by other means than lm-eval's"
    elif key == "custom_generate":
        yield f"{value}, a script that transformers runs to generate"
    elif key in ("storage_options", "download_config"):
        yield "settings of how data are fetched"
    elif key in ("data_files", "data_dir", "dataset_path") and _far_fetched(node.value):
        yield f"{value}, fetched by other means than {', '.join(_SCHEMES)}"


def _far_fetched(address: str) -> bool:
    scheme = re.match(r"([\w+.-]+)://", address)
    return "::" in address or (scheme is not None and scheme[1].lower() not in _SCHEMES)


def _pairs(root: yaml.Node | None) -> Iterator[tuple[str, str, yaml.ScalarNode]]:
    """Yield every value with the key it stands under and the key above, each node once; a tagged list as a scalar.

    Values of a list, or of a mapping under `data_files`, stand under the key of the whole.
    """
    unseen: list[tuple[str, str, yaml.Node]] = [("", "", root)] if root is not None else []
    seen = set[tuple[int, str]]()
    while unseen:
        key, parent, node = unseen.pop()
        if (id(node), key) in seen:
            continue
        seen.add((id(node), key))
        if isinstance(node, yaml.ScalarNode):
            yield key, parent, node
            continue
        yield key, parent, yaml.ScalarNode(node.tag, "", node.start_mark)
        if isinstance(node, yaml.SequenceNode):
            unseen += [(key, parent, each) for each in node.value]
        else:
            for name, value in node.value:
                inner = name.value if isinstance(name, yaml.ScalarNode) and key != "data_files" else key
                unseen += [(inner, key, value), (key, parent, name)]
