"""A family's YAML read: every value checked, and every error naming the file and the key."""

from collections.abc import Mapping
from os.path import expanduser
from pathlib import Path
from typing import Any

from nmerge_core.checkpoints.reference import labels
from nmerge_core.errors import InputError, shown
from nmerge_core.family.family import Family, Member
from nmerge_core.files.kept_files import reading
from nmerge_core.files.yaml_file import check_keys, read_mapping

_KEYS = ("base", "models", "corpus", "tasks", "prompts", "neurons", "neuron_notes", "notes")
_MODEL = "the folder or Hub id of a model"
_OF_MODEL = {"model": _MODEL, "label": "a short name", "category": "the name of a category, in quotes if need be"}
_CORPUS = "a folder of <category>.jsonl files or a YAML of sources, or a slice of it as `corpus[:-60]`"


def load_family(source: str | Path) -> Family:
    """Read a family's YAML; its name is the file's, without ending.

    Raises:
        InputError: it cannot be read, is not YAML, has a key twice or one that is unknown (the nearest known one is
            named), lacks one, or a value is not what its key takes.
    """
    file = Path(expanduser(source))
    content, where = read_mapping(file, _KEYS), str(file)
    if file.suffix == ".json":
        with reading(file):
            content = _from_json(content)
    return read_family(content, file.stem, file.parent, where)


def read_family(content: Mapping[str, Any], name: str, folder: Path, where: str) -> Family:
    """Read what stands in a family's YAML, whose relative paths count from `folder`; errors name `where` it stands.

    Raises:
        InputError: a key is unknown (the nearest known one is named), one is missing, or a value is not what its key
            takes.
    """
    check_keys(content, _KEYS, where)
    content = {key: value for key, value in content.items() if value is not None}  # a key left blank is a key left out
    notes = content.get("notes", "")
    if not isinstance(notes, str):
        raise _wrong(where, "notes", "a text", notes)
    family = Family(
        name=name,
        base=_text(content.get("base"), where, "base", _MODEL),
        models=_members(content.get("models"), where),
        corpus=_text(content["corpus"], where, "corpus", _CORPUS) if "corpus" in content else None,
        tasks=_texts(content.get("tasks", []), where, "tasks"),
        prompts=_texts(content.get("prompts", []), where, "prompts"),
        neurons=_neurons(content.get("neurons", {}), where),
        neuron_notes=_neuron_notes(content.get("neuron_notes", []), where),
        notes=notes,
    ).in_full(folder)
    family.check(where)
    return family


def _from_json(content: dict[str, Any]) -> dict[str, Any]:
    """Name what versions up to 0.2 kept as YAML has it."""
    old = {"reference": "model"}
    models = [{old.get(key, key): value or None for key, value in model.items()} for model in content.get("models", [])]
    return {key: value for key, value in content.items() if key != "name"} | {"models": models}


def _members(models: Any, where: str) -> tuple[Member, ...]:
    """Read the fine-tunes; a label that is not told is the category or, without one, the model's short name."""
    if not isinstance(models, Mapping | list):
        raise _wrong(where, "models", "{category: model}, or a list of models and of {model, label, category}", models)
    by_category = isinstance(models, Mapping)
    places = models.items() if isinstance(models, Mapping) else enumerate(models)
    names = ("model", "label") if by_category else ("model", "label", "category")
    found = []
    for place, entry in places:
        key = f"models.{place}" if by_category else f"models[{place}]"
        given = {"model": entry} if isinstance(entry, str) else entry
        if not isinstance(given, Mapping):
            raise _wrong(where, key, f"{_MODEL}, or {{{', '.join(names)}}}", given)
        check_keys(given, names, f"{where}, key '{key}'")
        given = {"model": None} | {name: value for name, value in given.items() if value is not None}
        given |= {"category": place} if by_category else {}
        found.append({name: _text(value, where, f"{key}.{name}", _OF_MODEL[name]) for name, value in given.items()})
    return tuple(
        Member(own["model"], own.get("label") or own.get("category") or short, own.get("category", ""))
        for own, short in zip(found, labels([own["model"] for own in found]), strict=True)
    )


def _neurons(lists: Any, where: str) -> dict[str, tuple[tuple[int, int], ...]]:
    if not isinstance(lists, Mapping):
        raise _wrong(where, "neurons", "{name: [[layer, neuron], …]}", lists)
    for name, neurons in lists.items():
        _text(name, where, "neurons", "the name of a list, in quotes if need be")
        if not isinstance(neurons, list) or not all(map(_is_neuron, neurons)):
            raise _wrong(where, f"neurons.{name}", "a list of [layer, neuron], whole numbers from 0", neurons)
    return {name: tuple((layer, neuron) for layer, neuron in neurons) for name, neurons in lists.items()}


def _neuron_notes(notes: Any, where: str) -> dict[tuple[int, int], str]:
    if not isinstance(notes, list) or not all(map(_is_note, notes)):
        raise _wrong(where, "neuron_notes", "a list of [layer, neuron, text], whole numbers from 0", notes)
    return {(layer, neuron): text for layer, neuron, text in notes}


def _texts(value: Any, where: str, key: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _wrong(where, key, "a list of texts", value)
    return tuple(_text(text, where, f"{key}[{index}]", "a text") for index, text in enumerate(value))


def _text(value: Any, where: str, key: str, expected: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _wrong(where, key, expected, value)
    return value


def _is_neuron(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_whole, value))


def _is_note(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and _is_neuron(value[:2]) and isinstance(value[2], str)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _wrong(where: str, key: str, expected: str, found: Any) -> InputError:
    return InputError(
        f"{where}, key '{key}': expected {expected}; found {'nothing' if found is None else shown(found)}"
    )
