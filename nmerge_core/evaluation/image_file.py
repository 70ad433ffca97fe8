"""What the YAML of an image task says: where the images are, what their classes are called, what tells them apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from os.path import expanduser, isdir
from pathlib import Path
from typing import Any

from nmerge_core.errors import InputError, short, shown
from nmerge_core.files.data_folder import files_in
from nmerge_core.files.yaml_file import check_keys, read_mapping
from nmerge_core.pictures import Content, Picture, pictures_in
from nmerge_core.task_yaml.files import text_model_of

TEMPLATES = ("a photo of a {}.",)  # CLIP's own
_KEYS = ("task", "kind", "data", "classes", "templates", "head", "text_model")
_SOURCE = {"path": None, "config": None, "split": "test", "image": "image", "label": "label"}

Found = tuple[str, str, Content]  # the name of an image, what its data call its class, and itself


@dataclass(frozen=True)
class Example(Picture):
    """An image with the number of its class."""

    label: int


@dataclass(frozen=True)
class ImageFile:
    """An image task as its YAML has it: `keys` are what its data call the classes that it calls `classes`.

    The images are in an order that follows from their names alone, so that the first so many are of all classes.
    """

    name: str
    pictures: tuple[Example, ...]
    keys: tuple[str, ...]
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    head: Path | None
    text_model: str | None


def read_image_file(file: Path) -> ImageFile:
    """Read the YAML of an image task, and find its images; none is opened.

    Raises:
        InputError: a key is unknown or its value is none it can have, there are no such images, or one is of no class.
    """
    content = read_mapping(file, _KEYS)
    where = f"task '{file}'"
    check_keys(content, _KEYS, where)
    data = content.get("data")
    known: list[str] | None
    if isinstance(data, str) and data:
        known, found = _of_folder(file.parent / expanduser(data), where)
    elif isinstance(data, Mapping):
        known, found = _of_dataset(file, data, where)
    else:
        raise InputError(
            f"{where}, key 'data': expected a folder with a folder of images per class, or a mapping with "
            f"{', '.join(_SOURCE)} of a data set; found {shown(data)}"
        )
    keys, classes = _named(content.get("classes"), known, where)
    if len({*keys}) < len(keys) or len({*classes}) < len(classes):
        raise InputError(f"{where}, key 'classes': expected each class once, found {shown(content.get('classes'))}")
    numbers = {key: number for number, key in enumerate(keys)}
    for name, key, _ in found:
        if key not in numbers:
            raise InputError(
                f"{where}, key 'classes': expected all that the data have, found no {shown(key)}, which {name} is of; "
                f"to call a class otherwise than the data, write `{shown(key)}: name`"
            )
    head, text_model = content.get("head"), content.get("text_model")
    if text_model is not None:
        _text(text_model, where, "text_model")
    if head is not None and text_model is not None:
        raise InputError(f"{where}: 'head' and 'text_model' both tell the classes apart; keep one of them")
    return ImageFile(
        _text(content.get("task"), where, "task"),
        tuple(Example(name, content, numbers[key]) for name, key, content in sorted(found, key=_drawn)),
        keys,
        classes,
        _templates(content.get("templates"), where),
        None if head is None else file.parent / expanduser(_text(head, where, "head")),
        None if text_model is None else text_model_of(file),
    )


def _drawn(found: Found) -> bytes:
    return sha256(found[0].encode(errors="surrogateescape")).digest()


def _of_folder(folder: Path, where: str) -> tuple[list[str], list[Found]]:
    """Return the names of the folders of images, in order, and the images in them."""
    if not isdir(folder):
        raise InputError(f"{where}, key 'data': expected a folder with a folder of images per class, found no {folder}")
    known, found = list[str](), list[Found]()
    for own in sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")):
        known.append(own.name)
        found += [(each.name, own.name, each.content) for each in pictures_in(own, folder)]
    if not found:
        raise InputError(f"{where}, key 'data': expected a folder of images per class in {folder}, found no image")
    return known, found


def _of_dataset(file: Path, data: Mapping[str, Any], where: str) -> tuple[list[str] | None, list[Found]]:
    """Return what a data set calls its classes, None where it numbers them alone, and its images."""
    from datasets import ClassLabel, Image, load_dataset

    check_keys(data, _SOURCE, f"{where}, key 'data'")
    given = _SOURCE | dict(data)
    path = _text(given["path"], where, "data, path")
    if "://" in path or "::" in path:
        raise InputError(f"{where}, key 'data': expected a folder or the id of a data set, found {shown(path)}")
    local = file.parent / expanduser(path)
    files_in(local)  # which bounds what the library looks through
    try:
        rows = load_dataset(str(local) if isdir(local) else path, name=given["config"], split=given["split"])
        image, label = (str(given[key]) for key in ("image", "label"))
        features = rows.features
        lacking = next((column for column in (image, label) if column not in features), None)
        if lacking is None:
            rows, labels = rows.cast_column(image, Image(decode=False)), list(rows[label])
    except Exception as error:  # whatever `datasets` and its file systems raise is about the source named here
        raise InputError(f"{where}, key 'data': {short(path)} could not be read ({short(str(error))})") from error
    if lacking is not None:
        raise InputError(f"{where}, key 'data': no column {shown(lacking)}; it has {', '.join(features)}")
    feature = features[label]
    names: list[str] | None = feature.names if isinstance(feature, ClassLabel) else None
    # Test sets whose answers are kept back have the label −1.
    called = [names[each] if names and each is not None and 0 <= each < len(names) else str(each) for each in labels]
    known = names or (None if all(isinstance(each, int) for each in labels) else sorted(set(called)))
    found: list[Found] = [
        (f"image {place}", key, partial(_stored, rows, place, image)) for place, key in enumerate(called)
    ]
    if not found:
        raise InputError(f"{where}, key 'data': {short(path)} has no image in the split {shown(given['split'])}")
    return known, found


def _stored(rows: Any, place: int, column: str) -> bytes | Path:
    value = rows[place][column]
    return value["bytes"] if value["bytes"] is not None else Path(value["path"])


def _named(given: Any, known: Sequence[str] | None, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what the data call the classes, in the order of their numbers, and what the task calls them."""
    if given is None:
        if known is None:
            raise InputError(f"{where}: the data number their classes; expected their names under 'classes'")
        return tuple(known), tuple(known)
    values = list(given.values()) if isinstance(given, Mapping) else given
    if not isinstance(values, list) or not values or not all(isinstance(each, str | int) for each in values):
        raise InputError(
            f"{where}, key 'classes': expected names, or a mapping of the data's to yours; found {shown(given)}"
        )
    names = tuple(map(str, values))
    if isinstance(given, Mapping):
        return tuple(map(str, given)), names
    if known is None:
        return tuple(str(number) for number in range(len(names))), names
    if len(names) == len(known) and not {*names} & {*known}:
        raise InputError(
            f"{where}, key 'classes': the data have other names for all of them; write `{shown(known[0])}: name` each"
        )
    return names, names


def _templates(given: Any, where: str) -> tuple[str, ...]:
    if given is None:
        return TEMPLATES
    values = [given] if isinstance(given, str) else given
    if not isinstance(values, list) or not values or not all(isinstance(t, str) and t.count("{}") == 1 for t in values):
        raise InputError(f"{where}, key 'templates': expected texts with one {{}} for the class, found {shown(given)}")
    return tuple(values)


def _text(value: Any, where: str, key: str) -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"{where}, key '{key}': expected a text, found {shown(value)}")
    return value
