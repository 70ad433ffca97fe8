"""The families that a cache keeps, each in a file of its own, and the demo family beside them."""

import os
import re
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from nmerge_core.cache import DEMO
from nmerge_core.candidates import log_folder, move_log
from nmerge_core.errors import InputError, short
from nmerge_core.family.family import Family, Member
from nmerge_core.family.read import load_family
from nmerge_core.files.kept_files import changing, remove
from nmerge_core.files.yaml_file import LARGEST, read_mapping

MOST_NEURONS = 5_000  # in all lists of a family: its file is read at every click, and recipes hold lists as they are
LONGEST_NAME = 60  # characters of a list's
NOTES = "notes"  # what the file of all lists calls the notes beside them
MOST_NOTES, LONGEST_NOTE = 500, 1_000  # of a family, and characters of each


def families(root: Path) -> dict[str, Path]:
    """Return the file of each family saved in the folder `families` of a cache, by name in alphabetical order.

    Families that versions up to 0.2 kept as JSON are among them; they become YAML when they are saved again.
    """
    files = {file.stem: file for ending in ("json", "yaml") for file in (root / "families").glob(f"*.{ending}")}
    return {name: files[name] for name in sorted(files) if name != DEMO}


def save_family(family: Family, folder: Path) -> Path:
    """Write `<folder>/<name>.yaml` in one step, replacing a family of that name, and return the file.

    Local paths are written in full, so that the file means the same wherever the program is started.

    Raises:
        InputError: the name is empty, the demo's, or not made of letters, digits, `-` and `_`; there is no fine-tune;
            two models have the same label; or it holds what could not be read again.
    """
    if not re.fullmatch(r"[\w-]{1,40}", family.name) or family.name == DEMO:
        raise InputError(
            f"The family's name is “{family.name}”; expected 1 to 40 letters, digits, “-” or “_”, other than “{DEMO}”. "
            "Give it such a name."
        )
    return _write(family, folder)


def _file(family: Family, folder: Path) -> Path:
    return folder / f"{family.name}.yaml"


def _write(family: Family, folder: Path) -> Path:
    family = family.in_full()
    family.check(f"family {family.name}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = _file(family, folder)
    part = folder / f".{file.name}.{secrets.token_hex(4)}"
    text = _readable(family)
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
    file.with_suffix(".json").unlink(missing_ok=True)  # as versions up to 0.2 kept it
    return file


def _readable(family: Family) -> str:
    """Return what the file of a family is to hold; raises InputError where it could not be read again."""
    text, where = family.to_yaml(), f"family {family.name}"
    read_mapping(text, (), where)  # in which YAML refuses a NUL, and half a character
    if (size := len(text.encode())) > LARGEST:
        raise InputError(
            f"{where}: its file would have {size:,} bytes, of {LARGEST:,} at most. Shorten notes, or take some away."
        )
    return text


def rename_family(family: Family, name: str, root: Path) -> Path:
    """Save a family of a cache under another name, its candidates with it, and return the new file; the old one goes.

    Raises:
        InputError: as `save_family`; or there is a family of that name already.
    """
    if name != family.name and name in families(root):
        raise InputError(f"There is a family “{name}” already; choose another name, or delete that one first.")
    file = save_family(replace(family, name=name), root / "families")
    if name != family.name:
        move_log(root, family.name, name)
        delete_family(family.name, root)
    return file


def delete_family(name: str, root: Path) -> None:
    """Delete the file of a family saved in a cache, whatever is in it, and its candidates; models and runs stay."""
    remove(families(root)[name])
    remove(log_folder(root, name))


def demo_family(root: Path) -> Family:
    """Return the family that comes with the program; its parts are `missing` until its files are in the cache.

    Of a user's own it has the lists of neurons and the notes that `keep_neurons` and `keep_note` have kept.
    """
    demo = root / DEMO
    tuned = ("math", "code", "translation")
    models = tuple(Member(str(demo / name), name, name) for name in tuned)
    family = Family(DEMO, str(demo / "base"), models, str(demo / "corpus"), tasks=(*tuned, "general"))
    with suppress(InputError):  # there is none, or it is damaged, and the next list makes it anew
        kept = load_family(_file(family, root / "families"))
        return replace(family, neurons=kept.neurons, neuron_notes=kept.neuron_notes)
    return family


def keep_neurons(family: str, name: str, neurons: Iterable[tuple[int, int]], root: Path) -> None:
    """Keep a list of (layer, neuron) with a family of a cache, in the place of one of its name; an empty one goes.

    Raises:
        InputError: the list cannot be called so, the family's lists would hold too many neurons, or there is no such
            family, or its file has a mistake.
    """
    _change(family, root, lambda kept: _with_list(kept, name, neurons))


def keep_note(family: str, place: tuple[int, int], note: str, root: Path, *, before: str = "") -> None:
    """Keep a note on a neuron, (layer, neuron), with a family of a cache, in the place of the one that was `before`.

    Where another has been kept meanwhile, from another page say, both stay. An empty one takes `before` away.

    Raises:
        InputError: the note is too long, there are too many, or it could not be read again; or there is no such family,
            or its file has a mistake.
    """
    _change(family, root, lambda kept: _with_note(kept, place, note.strip(), before.strip()))


def _change(family: str, root: Path, change: Callable[[Family], Family]) -> None:
    """Write a family of a cache anew as it is changed, while no other page or process changes one."""
    with changing(root / "families"):
        known = families(root)
        if family != DEMO and family not in known:
            raise InputError(f"There is no family “{family}” any more.")
        _write(change(demo_family(root) if family == DEMO else load_family(known[family])), root / "families")


def _with_note(kept: Family, place: tuple[int, int], note: str, before: str) -> Family:
    now = kept.neuron_notes.get(place, "")
    text = note if now in ("", before, note) else f"{now}\n\n{note}".strip()
    notes = {each: own for each, own in {**kept.neuron_notes, place: text}.items() if own}
    if len(text) > max(LONGEST_NOTE, len(now)):
        raise InputError(
            f"A note on a neuron has at most {LONGEST_NOTE:,} characters, and this would have {len(text):,}. "
            "Shorten it."
        )
    if len(notes) > max(MOST_NOTES, len(kept.neuron_notes)):
        raise InputError(f"A family keeps notes on at most {MOST_NOTES:,} neurons. Take one away, or keep a list.")
    return replace(kept, neuron_notes=dict(sorted(notes.items())))


def _with_list(kept: Family, name: str, neurons: Iterable[tuple[int, int]]) -> Family:
    taken = {"attention", "mlp", NOTES, *kept.categories, *(model.label for model in kept.models)}
    pairs = {(int(layer), int(neuron)) for layer, neuron in neurons}  # a page has them as numbers of numpy
    if pairs and (not 0 < len(name) <= LONGEST_NAME or not name.isprintable() or name in taken):
        raise InputError(
            f"A list of neurons cannot be called “{short(name)}”; expected 1 to {LONGEST_NAME} characters, other than "
            f"{', '.join(sorted(taken))}, which mean something else already."
        )
    lists = {**kept.neurons, name: tuple(sorted(pairs))}
    number, before = (sum(map(len, each.values())) for each in (lists, kept.neurons))
    if number > max(MOST_NEURONS, before):
        raise InputError(
            f"A family keeps at most {MOST_NEURONS:,} neurons in its lists, and these would be {number:,}. Take some "
            "out, or name a CSV file of neurons in the recipe."
        )
    return replace(kept, neurons={each: own for each, own in lists.items() if own})
