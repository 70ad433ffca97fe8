"""The family as an object, and as the YAML that is written of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os.path import exists, expanduser
from pathlib import Path
from typing import Any

from nmerge_core.cache import task_data
from nmerge_core.checkpoints.reference import check_labels, from_folder, halves, labels, on_this_machine
from nmerge_core.corpus.corpus import whole_and_slice
from nmerge_core.errors import InputError
from nmerge_core.files.yaml_file import yaml_text

BASE = "base"  # what the base is called among its fine-tunes


@dataclass(frozen=True)
class Member:
    """One model: its folder or Hub id, its short name, and the category it was tuned for ("" if none is told).

    It stands for its reference wherever a path is taken. One that is `merged` was made of the others.
    """

    reference: str
    label: str
    category: str = ""
    merged: bool = False

    def __fspath__(self) -> str:
        """Return the reference."""
        return self.reference


@dataclass(frozen=True)
class Family:
    """A base and its fine-tunes, the corpus that classifies neurons, the tasks that score models, and a user's notes.

    The corpus may be a slice, `corpus[:-60]`, which holds out the last lines of each category; `neurons` holds lists of
    (layer, neuron) by name, `neuron_notes` what a user noted on a neuron by (layer, neuron).
    """

    name: str
    base: str
    models: tuple[Member, ...]
    corpus: str | None = None
    tasks: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    neurons: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    neuron_notes: Mapping[tuple[int, int], str] = field(default_factory=dict)
    notes: str = ""

    @property
    def members(self) -> tuple[Member, ...]:
        """Base first, then the fine-tunes."""
        return (Member(self.base, BASE), *self.models)

    @property
    def references(self) -> list[str]:
        """The fine-tunes' folders or Hub ids."""
        return [model.reference for model in self.models]

    @property
    def labels(self) -> dict[str, str]:
        """The short name of each reference, the base's included."""
        return {member.reference: member.label for member in self.members}

    @property
    def categories(self) -> list[str]:
        """General first, then the categories of the fine-tunes, each once."""
        return list(dict.fromkeys(["general", *(model.category for model in self.models if model.category)]))

    @property
    def missing(self) -> list[str]:
        """The models and adapters that are not on this machine (yet), and the corpus if it is not."""
        named = dict.fromkeys(half for member in self.members for half in halves(member.reference))
        absent = [half for half in named if not on_this_machine(half)]
        corpus, _ = whole_and_slice(self.corpus or "")
        return [*absent, corpus] if corpus and not exists(expanduser(corpus)) else absent

    def check(self, where: str) -> None:
        """Raise InputError, naming `where` the family stands, if it lacks a fine-tune or two are not told apart."""
        if not self.models:
            raise InputError(f"{where}, key 'models': expected at least one fine-tune, found none")
        for index, reference in enumerate(self.references):
            if reference in self.references[:index]:
                raise InputError(f"{where}, key 'models': {reference} is there twice; leave one out")
        names = [member.label for member in self.members]
        check_labels(names, f"{where}, key 'models'")
        for index, name in enumerate(names):
            if not name or name in names[:index]:
                problem = f"two models are called '{name}'" if name else "a model has no label"
                raise InputError(f"{where}, key 'models': {problem}; give each its own label, other than '{BASE}'")

    def in_full(self, folder: Path = Path()) -> "Family":
        """Return the family with local paths, which count from `folder`, in full; a task may be YAML or NAME=FILE."""
        corpus, meant = whole_and_slice(self.corpus or "")
        return replace(
            self,
            base=from_folder(self.base, folder),
            models=tuple(replace(model, reference=from_folder(model.reference, folder)) for model in self.models),
            corpus=f"{(folder / expanduser(corpus)).resolve()}{meant}" if corpus else None,
            tasks=tuple(_task(task, folder) for task in self.tasks),
        )

    def to_yaml(self) -> str:
        """Write the family in the shortest form that reads back equal; the name is that of the file it goes to."""
        content: dict[str, Any] = {
            "base": self.base,
            "models": _written(self.models),
            "corpus": self.corpus,
            "tasks": list(self.tasks),
            "prompts": list(self.prompts),
            "neurons": {name: [list(neuron) for neuron in neurons] for name, neurons in self.neurons.items()},
            "neuron_notes": [[*place, note] for place, note in self.neuron_notes.items()],
            "notes": self.notes,
        }
        return yaml_text({key: value for key, value in content.items() if value})


def _task(reference: str, folder: Path) -> str:
    name, data = task_data(reference)
    if data:
        return f"{name}={(folder / expanduser(data)).resolve()}"
    return str((folder / expanduser(name)).resolve()) if name.endswith((".yaml", ".yml")) else name


def _written(models: tuple[Member, ...]) -> dict[str, Any] | list[Any]:
    """Return the fine-tunes by category where each has its own, else as a list."""
    own = {model.category: model for model in models if model.category}
    if len(own) == len(models):
        return {
            category: model.reference if model.label == category else {"model": model.reference, "label": model.label}
            for category, model in own.items()
        }
    entries: list[Any] = []
    for model, short in zip(models, labels([model.reference for model in models]), strict=True):
        entry = {"model": model.reference}
        if model.label != (model.category or short):
            entry["label"] = model.label
        if model.category:
            entry["category"] = model.category
        entries.append(entry if len(entry) > 1 else model.reference)
    return entries
