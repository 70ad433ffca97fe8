"""What a recipe or a request names under its keys (models, corpora, tasks, …), and the fingerprint of its content."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache, partial
from glob import glob
from os.path import isfile
from pathlib import Path
from typing import Any

from nmerge_core.cache import task_file
from nmerge_core.checkpoints.fingerprint import fingerprint, fingerprint_files
from nmerge_core.checkpoints.opening import open_checkpoint
from nmerge_core.checkpoints.reference import absolute
from nmerge_core.errors import InputError
from nmerge_core.merging.recipe.recipe import find_path
from nmerge_core.merging.recipe.tokenizer_choice import BASE, UNION

Role = Callable[[str], tuple[str, str]]  # what is named → its full name, and the fingerprint of what it holds


def roles(root: Path, folder: Path | None = None) -> dict[str, Role]:
    """Return what the text under each key names, remembered; a role raises InputError where there is no such thing.

    Args:
        root: the cache that holds the demo family's tasks.
        folder: where relative paths of data may start beside the working directory.
    """
    by_keys: dict[tuple[str, ...], Role] = {
        ("model", "base", "base_model", "models"): _model,
        ("tokenizer", "tokenizer_source", "source"): _tokenizer,  # the last also of a single token
        ("corpus", "calibration"): partial(_corpus, folder),
        ("neurons",): partial(classification, folder),
        ("statistics",): partial(_statistics, folder),
        ("task", "tasks"): partial(_task, root),
    }
    return {key: role for keys, each in by_keys.items() for role in [cache(each)] for key in keys}


def resolve_inputs(known: Mapping[str, Role], name: str, value: Any, inputs: dict[str, str]) -> Any:
    """Name in full what a value and all within it name (a recipe is nested), adding their fingerprints to `inputs`."""
    if isinstance(value, Mapping):
        return {key: resolve_inputs(known, key, inner, inputs) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [resolve_inputs(known, name, inner, inputs) for inner in value]
    if name in known and isinstance(value, str):
        value, inputs[value] = known[name](value)
    return value


def classification(folder: Path | None, reference: str) -> tuple[str, str]:
    """Resolve a folder that `classify` wrote; raises InputError where it is none."""
    neurons = Path(absolute(str(find_path(reference, folder)))) / "neurons.parquet"
    if not neurons.is_file():
        raise InputError(f"{reference}: expected a classification (a folder that `classify` wrote), found no {neurons}")
    return str(neurons.parent), _fingerprint_files([neurons])


def _model(reference: str) -> tuple[str, str]:
    checkpoint = open_checkpoint(reference)
    tokenizer = _fingerprint_files(checkpoint.folder.glob("tokenizer*"))
    return absolute(reference), f"{fingerprint(checkpoint)}-{tokenizer}"


def _tokenizer(source: str) -> tuple[str, str]:
    """Resolve whose tokenizer a merge has: a model, or a word of recipes."""
    return (source, "") if source in (BASE, UNION) else _model(source)


def _corpus(folder: Path | None, reference: str) -> tuple[str, str]:
    path = Path(absolute(str(find_path(reference, folder))))
    if not path.exists():
        raise InputError(f"{reference}: no such corpus; expected a folder of <category>.jsonl files, or a YAML file")
    return str(path), _fingerprint_files(path.glob("*.jsonl") if path.is_dir() else _with_mentioned([path]))


def _statistics(folder: Path | None, reference: str) -> tuple[str, str]:
    """Resolve a statistics folder."""
    meta = Path(absolute(str(find_path(reference, folder)))) / "meta.json"
    if not meta.is_file():
        raise InputError(f"{reference}: expected a folder that `statistics` wrote, found no {meta}")
    return str(meta.parent), _fingerprint_files([meta])


def _task(root: Path, reference: str) -> tuple[str, str]:
    """Resolve a task: a YAML file, or the name of a task of the demo family, of our benchmarks or of lm-eval."""
    named = absolute(reference) if reference.endswith((".yaml", ".yml")) else reference
    file = task_file(reference, root)
    if file is None:
        return named, ""
    grouped = re.search(r"^group\s*:", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return named, _fingerprint_files(_with_mentioned(file.parent.glob("*.y*ml") if grouped else [file]))


def _with_mentioned(files: Iterable[Path]) -> set[Path]:
    """Return YAML files and all that their texts name beside or below them: data, code, and YAML files they include."""
    found, unread = set[Path](), {*files}
    while unread:
        file = unread.pop()
        found.add(file)
        mentioned = _mentioned(file) - found
        unread |= {each for each in mentioned if each.suffix in (".yaml", ".yml")}
        found |= mentioned
    return found


def _mentioned(file: Path) -> set[Path]:
    text = file.read_text(encoding="utf-8", errors="replace")
    names = re.findall(r"[^\s,\[\]{}'\"]{1,200}", text)
    names += [f"{module}.py" for module in re.findall(r"!function\s+(\w+)\.", text)]
    patterns = [name for name in names if re.fullmatch(r"(\w[^*]*)?\*[^*/]*\.\w+", name)]
    names += [found for name in patterns for found in glob(name, root_dir=file.parent)]
    return {path for name in names if isfile(path := file.parent / name)}  # no file: also text too long for a name


def _fingerprint_files(files: Iterable[Path]) -> str:
    """Return the digest of files, reading them again only when one has changed: pages ask at every click."""
    return _digest(tuple((file, (found := file.stat()).st_size, found.st_mtime_ns) for file in sorted(files)))


@lru_cache(maxsize=256)
def _digest(stamps: tuple[tuple[Path, int, int], ...]) -> str:
    return fingerprint_files(file for file, _, _ in stamps)
