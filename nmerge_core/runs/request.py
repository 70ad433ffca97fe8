"""What a run is asked to do: its parameters with every default filled in, and the fingerprints of what it reads."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from nmerge_core import __version__
from nmerge_core.cache import task_file
from nmerge_core.checkpoints.checkpoint import open_checkpoint
from nmerge_core.checkpoints.fingerprint import fingerprint, fingerprint_files
from nmerge_core.checkpoints.reference import absolute, label
from nmerge_core.errors import InputError
from nmerge_core.merging.engine import MergekitRecipe, load, written
from nmerge_core.merging.tokenizer import BASE, UNION
from nmerge_core.runs.folder import find


@dataclass(frozen=True)
class Kind:
    """A kind of run: the parameters it must be given, and the others with their defaults."""

    required: tuple[str, ...]
    defaults: Mapping[str, Any]


KINDS: dict[str, Kind] = {
    "classify": Kind(
        ("model", "corpus"),
        {
            "top_k": 10,
            "margin": 1,
            "max_length": 512,
            "batch_size": "auto",
            "device": "auto",
            "categories": None,
            "skip_first": False,
        },
    ),
    "cosine": Kind(("base", "models"), {}),
    "knockout": Kind(
        ("model", "neurons", "category", "layers", "task"),
        {
            "proportions": [0.2, 0.4, 0.6, 0.8, 1.0],
            "repeats": 3,
            "seed": 0,
            "limit": None,
            "run_code": False,
            "device": "auto",
        },
    ),
    "linearity": Kind(
        ("base", "models", "corpus"), {"neurons": None, "categories": None, "samples": 30, "seed": 0, "device": "auto"}
    ),
    "merge": Kind(("recipe",), {"device": "auto"}),
    "evaluate": Kind(("models", "tasks"), {"limit": None, "run_code": False, "batch_size": 64, "device": "auto"}),
}


@dataclass(frozen=True)
class Request:
    """A resolved request: equal ones have the same id, and one whose input changed has another."""

    kind: str
    parameters: dict[str, Any]
    inputs: dict[str, str]  # path or name → fingerprint

    @property
    def key(self) -> str:
        """12 hex digits of kind, parameters, inputs and version."""
        content = json.dumps([self.kind, self.parameters, self.inputs, __version__], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def id(self) -> str:
        """The name of the run's folder."""
        return f"{self.kind}-{self.key}"

    @property
    def title(self) -> str:
        """What the run is called where the caller gave no title."""
        if self.kind == "merge":
            return f"merge by {self.parameters['recipe']['merge_method']}"
        models = self.parameters.get("models") or [self.parameters.get("model", "")]
        return f"{self.kind} {', '.join(label(model) for model in models)}".strip()


def resolve(root: Path, kind: str, parameters: Mapping[str, Any]) -> Request:
    """Fill in defaults, make paths absolute, and take the fingerprint of every model, corpus, run and task named.

    Raises:
        InputError: An unknown kind or parameter, one that is missing, or an input that is not there.
    """
    if kind not in KINDS:
        raise InputError(f"kind of run {kind!r}: expected one of {', '.join(KINDS)}")
    known = (*KINDS[kind].required, *KINDS[kind].defaults)
    for name in parameters:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(known)}"
            raise InputError(f"{kind}: unknown parameter {name!r}; {hint}")
    for name in KINDS[kind].required:
        if parameters.get(name) in (None, "", []):
            raise InputError(f"{kind}: the parameter {name!r} is missing")
    inputs: dict[str, str] = {}
    full = {**KINDS[kind].defaults, **parameters}
    if "recipe" in full:
        recipe = load(full["recipe"])
        full["recipe"] = yaml.safe_load(written(recipe))
        if isinstance(recipe, MergekitRecipe):
            inputs["mergekit"] = version("mergekit")
    return Request(kind, {name: _resolve(root, name, full[name], inputs) for name in sorted(full)}, inputs)


def _resolve(root: Path, name: str, value: Any, inputs: dict[str, str]) -> Any:
    """Resolve a parameter and all within it (a recipe is nested), adding to `inputs` what it reads."""
    if isinstance(value, Mapping):
        return {key: _resolve(root, key, inner, inputs) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_resolve(root, name, inner, inputs) for inner in value]
    if name in _ROLES and isinstance(value, str):
        value, inputs[value] = _ROLES[name](root, value)
    return value


def _model(root: Path, reference: str) -> tuple[str, str]:
    checkpoint = open_checkpoint(reference)
    tokenizer = _fingerprint_files(checkpoint.folder.glob("tokenizer*"))
    return absolute(reference), f"{fingerprint(checkpoint)}-{tokenizer}"


def _tokenizer(root: Path, source: str) -> tuple[str, str]:
    """Resolve whose tokenizer a merge has: a model, or a word of recipes."""
    return (source, "") if source in (BASE, UNION) else _model(root, source)


def _corpus(root: Path, reference: str) -> tuple[str, str]:
    path = Path(absolute(reference))
    if not path.exists():
        raise InputError(f"{reference}: no such corpus; expected a folder of <category>.jsonl files, or a YAML file")
    return str(path), _fingerprint_files(path.glob("*.jsonl") if path.is_dir() else _with_mentioned(path))


def _neurons(root: Path, reference: str) -> tuple[str, str]:
    """Resolve a classification: the id of a run of this cache, or a folder."""
    run = find(root, reference)
    if run is not None and run.status().state != "done":
        raise InputError(f"{run.title}: expected a finished classification, but it is {run.status().state}")
    folder = run.results if run is not None else Path(absolute(reference))
    neurons = folder / "neurons.parquet"
    if not neurons.is_file():
        raise InputError(f"{reference}: expected a classification (a folder that `classify` wrote), found no {neurons}")
    return str(folder), _fingerprint_files([neurons])


def _statistics(root: Path, reference: str) -> tuple[str, str]:
    """Resolve a statistics folder."""
    meta = Path(absolute(reference)) / "meta.json"
    if not meta.is_file():
        raise InputError(f"{reference}: expected a folder that `statistics` wrote, found no {meta}")
    return str(meta.parent), _fingerprint_files([meta])


def _task(root: Path, reference: str) -> tuple[str, str]:
    """Resolve a task: a YAML file, or the name of a task of the demo family, of our benchmarks or of lm-eval."""
    named = absolute(reference) if reference.endswith((".yaml", ".yml")) else reference
    file = task_file(reference, root)
    return named, _fingerprint_files(_with_mentioned(file)) if file else ""


def _with_mentioned(file: Path) -> set[Path]:
    """Return a YAML file and the files beside or below it that its text names: data, and files it includes."""
    words = re.findall(r"[^\s,\[\]{}'\"]{1,200}", file.read_text(encoding="utf-8", errors="replace"))
    return {file, *(path for word in words if (path := file.parent / word).is_file())}


def _fingerprint_files(files: Iterable[Path]) -> str:
    """Return the digest of files, reading them again only when one has changed: pages ask at every click."""
    return _digest(tuple((file, (found := file.stat()).st_size, found.st_mtime_ns) for file in sorted(files)))


@lru_cache(maxsize=256)
def _digest(stamps: tuple[tuple[Path, int, int], ...]) -> str:
    return fingerprint_files(file for file, _, _ in stamps)


_ROLES: dict[str, Callable[[Path, str], tuple[str, str]]] = {
    "model": _model,
    "base": _model,
    "base_model": _model,
    "models": _model,
    "tokenizer": _tokenizer,
    "tokenizer_source": _tokenizer,
    "source": _tokenizer,  # of a tokenizer, or of one of its tokens
    "corpus": _corpus,
    "calibration": _corpus,
    "neurons": _neurons,
    "statistics": _statistics,
    "task": _task,
    "tasks": _task,
}
