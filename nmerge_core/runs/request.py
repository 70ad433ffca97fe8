"""What a run is asked to do: its parameters with every default filled in, and the fingerprints of what it reads."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from nmerge_core.checkpoints.opening import open_checkpoint
from nmerge_core.checkpoints.reference import label
from nmerge_core.errors import InputError
from nmerge_core.merging.engine import MergekitRecipe, load, written
from nmerge_core.merging.recipe.inputs import classification, resolve_inputs, roles
from nmerge_core.number_format import choose_format
from nmerge_core.runs.folder import find
from nmerge_core.version import __version__


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
            "run_dtype": "auto",
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
            "run_dtype": "auto",
        },
    ),
    "linearity": Kind(
        ("base", "models", "corpus"), {"neurons": None, "categories": None, "samples": 30, "seed": 0, "device": "auto"}
    ),
    "merge": Kind(("recipe",), {"device": "auto"}),
    "evaluate": Kind(
        ("models", "tasks"),
        {"limit": None, "run_code": False, "batch_size": 64, "device": "auto", "run_dtype": "auto"},
    ),
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
    named = roles(root) | {"neurons": partial(_neurons, root)}
    resolved = {name: resolve_inputs(named, name, full[name], inputs) for name in sorted(full)}
    if "run_dtype" in full:
        for model in resolved.get("models") or [resolved["model"]]:
            found = choose_format(open_checkpoint(model), full["run_dtype"], full["device"])
            inputs[f"{model} runs in"] = found.name
    return Request(kind, resolved, inputs)


def _neurons(root: Path, reference: str) -> tuple[str, str]:
    """Resolve a classification: the id of a run of this cache, or a folder."""
    run = find(root, reference)
    if run is None:
        return classification(None, reference)
    if run.status().state != "done":
        raise InputError(f"{run.title}: expected a finished classification, but it is {run.status().state}")
    return classification(None, str(run.results))
