"""Parameters that name something outside: a model, a corpus, a file. Their content tells one run from another."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from os.path import expanduser, isfile  # of which no name is too long
from typing import Any, ClassVar

from nmerge_core.cache import task_data
from nmerge_core.errors import shown
from nmerge_core.inputs import Places
from nmerge_core.parameters.parameter import NO_CONTENT, Parameter


@dataclass(frozen=True, kw_only=True)
class Input(Parameter):
    """Something outside that is read: its content, and not its name alone, tells one run from another."""

    kind: ClassVar[str] = "input"

    @property
    def expected(self) -> str:
        """The words."""
        return "a path or a name"

    def parse(self, value: Any) -> Any:
        """Return the reference, a path as text."""
        text = fspath(value) if isinstance(value, PathLike) else value
        if not isinstance(text, str) or not text:
            raise ValueError
        return text

    def content(self, value: Any, places: Places) -> tuple[Any, Mapping[str, str]]:
        """Return the reference in full, and the fingerprint of what is there.

        Raises:
            InputError: there is no such thing.
        """
        if value is None:
            return None, NO_CONTENT
        full, fingerprint = self.find(value, places)
        return full, {full: fingerprint}

    def find(self, reference: str, places: Places) -> tuple[str, str]:
        """Return the full name of one thing and its fingerprint; raises InputError where there is none."""
        return places.file(reference)


@dataclass(frozen=True, kw_only=True)
class File(Input):
    """A file that a method reads."""

    kind: ClassVar[str] = "file"

    @property
    def expected(self) -> str:
        """The words."""
        return "a file"


@dataclass(frozen=True, kw_only=True)
class Model(Input):
    """A model: a folder or Hub id, or MODEL+ADAPTER."""

    kind: ClassVar[str] = "model"

    @property
    def expected(self) -> str:
        """The words."""
        return "a model folder or Hub id, or MODEL+ADAPTER with the folder or id of a LoRA"

    def find(self, reference: str, places: Places) -> tuple[str, str]:
        """Fingerprint the weights, the configuration and what goes by the tokens."""
        return places.model(reference)


@dataclass(frozen=True, kw_only=True)
class Corpus(Input):
    """A corpus: a folder of one JSONL file per category, or a YAML of `datasets` sources."""

    kind: ClassVar[str] = "corpus"

    @property
    def expected(self) -> str:
        """The words."""
        return "a folder with one <category>.jsonl per category, or a YAML of datasets sources"

    def find(self, reference: str, places: Places) -> tuple[str, str]:
        """Fingerprint its files."""
        return places.corpus(reference)


@dataclass(frozen=True, kw_only=True)
class Classification(Input):
    """A folder that `classify` wrote, or the id of such a run."""

    kind: ClassVar[str] = "classification"

    @property
    def expected(self) -> str:
        """The words."""
        return "a folder that `classify` wrote"

    def find(self, reference: str, places: Places) -> tuple[str, str]:
        """Fingerprint the categories of its neurons and what they are voted from."""
        return places.classification(reference)


@dataclass(frozen=True, kw_only=True)
class Statistics(Input):
    """A folder that `statistics` wrote."""

    kind: ClassVar[str] = "statistics"

    @property
    def expected(self) -> str:
        """The words."""
        return "a folder that `statistics` wrote"

    def find(self, reference: str, places: Places) -> tuple[str, str]:
        """Fingerprint its tensors and what it says of itself."""
        return places.statistics(reference)


@dataclass(frozen=True, kw_only=True)
class NeuronLists(Input):
    """Lists of neurons by name: [[layer, neuron], …] as they stand, or a file of them."""

    kind: ClassVar[str] = "neuron lists"

    @property
    def expected(self) -> str:
        """The words."""
        return "{name: [[layer, neuron], …]}, a CSV or JSON file of them in the place of any list"

    def parse(self, value: Any) -> Any:
        """Return the lists by name, a file as its path."""
        if not isinstance(value, Mapping) or "" in value:
            raise ValueError
        return {str(name): self._list(each) for name, each in value.items()}

    def from_text(self, text: str) -> Any:
        """Read a JSON object."""
        try:
            return self.parse(json.loads(text))
        except RecursionError:
            raise ValueError from None

    def _list(self, value: Any) -> Any:
        return [list(pair) for pair in checked_pairs(value)] if isinstance(value, list) else super().parse(value)

    def content(self, value: Any, places: Places) -> tuple[Any, Mapping[str, str]]:
        """Return the lists with files named in full, and the fingerprint of each file."""
        found = {name: self.find(each, places) for name, each in (value or {}).items() if isinstance(each, str)}
        return (value or {}) | {name: full for name, (full, _) in found.items()}, dict(found.values())


def checked_pairs(value: Any) -> list[tuple[int, int]]:
    """Return pairs of whole numbers from 0, each pair once; raises ValueError where a value is no list of such."""
    if not isinstance(value, list) or not value:
        raise ValueError("expected at least one [layer, neuron]")
    for pair in value:
        whole = isinstance(pair, list | tuple) and len(pair) == 2 and all(type(each) is int for each in pair)
        if not whole or min(pair) < 0:
            raise ValueError(f"expected [layer, neuron], whole numbers from 0; found {shown(pair)}")
    return list(dict.fromkeys((layer, neuron) for layer, neuron in value))


@dataclass(frozen=True, kw_only=True)
class Several(Input):
    """Inputs of one kind, in their order; one is a list of one."""

    @property
    def expected(self) -> str:
        """The words."""
        return f"a list, each {super().expected}"

    def parse(self, value: Any) -> Any:
        """Return a tuple of references."""
        one = isinstance(value, str | PathLike)
        values = [value] if one else value
        if not isinstance(values, list | tuple) or not values:
            raise ValueError
        return tuple(super(Several, self).parse(each) for each in values)

    def content(self, value: Any, places: Places) -> tuple[Any, Mapping[str, str]]:
        """Return the references in full, and the fingerprint of what is at each."""
        found = [self.find(each, places) for each in value or ()]
        return [full for full, _ in found] or value, dict(found)


@dataclass(frozen=True, kw_only=True)
class Models(Several, Model):
    """Models, in their order."""

    kind: ClassVar[str] = "models"


@dataclass(frozen=True, kw_only=True)
class Task(Input):
    """A task: the path of a YAML, a task of the demo family or of ours, or an lm-eval name."""

    kind: ClassVar[str] = "task"

    @property
    def expected(self) -> str:
        """The words."""
        return "a task YAML, a task of the demo family (math, code, translation, general), or an lm-eval name"

    def find(self, reference: str, places: Places) -> tuple[str, str]:
        """Fingerprint its YAML and the data that names; an lm-eval name has none."""
        return places.task(reference)


@dataclass(frozen=True, kw_only=True)
class Tasks(Several, Task):
    """Tasks, in their order; on the command line separated by commas."""

    kind: ClassVar[str] = "tasks"

    def from_text(self, text: str) -> Any:
        """Read names separated by commas; one within the name of a file that is there separates nothing."""
        pieces, names = text.split(","), []
        while pieces:
            whole = (count for count in range(len(pieces), 1, -1) if _of_a_file(",".join(pieces[:count])))
            count = next(whole, 1)
            names.append(",".join(pieces[:count]).strip())
            del pieces[:count]
        return self.parse(names)


def _of_a_file(task: str) -> bool:
    """Whether a task is the path of a file that is there, or NAME=FILE of one."""
    name, data = task_data(task.strip())
    return isfile(expanduser(data or name))
