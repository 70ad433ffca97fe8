"""What the YAML of a corpus says, and the texts or images of the `datasets` sources that it names."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from os.path import expanduser, isdir, isfile  # which raise of no name, where pathlib's do
from pathlib import Path
from typing import Any

from nmerge_core.errors import InputError, short, shown
from nmerge_core.files.data_folder import files_in
from nmerge_core.files.yaml_file import read_mapping
from nmerge_core.pictures import Picture

SOURCE_DEFAULTS: dict[str, Any] = {
    "path": None, "config": None, "split": "train", "column": "text", "template": None, "image": None, "count": 300,
    "seed": None,
}  # fmt: skip
"""Keys of a YAML source; 300 exemplars a category is M of NeuronMerge §2.2."""
_BUFFER = 10_000  # rows among which the next is drawn where a source has a seed
_PLACE = re.compile(r"\{([^{}\n]+)\}")  # in a template; a column may have spaces and signs in its name
_BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}  # of `datasets`
_TEXT = {"json", "csv", "text"}  # which are to be UTF-8; the last two may have a mark of it at the start
_SAVED = ("dataset_dict.json", "state.json")  # one of them is in a folder that `save_to_disk` wrote
_KINDS = ("text", "json", "csv", "parquet", "arrow", "xml", "webdataset", "imagefolder", "audiofolder")  # of `datasets`


def read_sources(path: Path) -> dict[str, dict[str, Any]]:
    """Read the source of each category, with the defaults filled in; raises InputError where one cannot be so."""
    sources = read_mapping(path, ("general", "other categories"))
    if not all(isinstance(source, dict) for source in sources.values()):
        raise InputError(f"corpus {path}: expected `category: {{{', '.join(SOURCE_DEFAULTS)}}}` for each category")
    for category, source in sources.items():
        if not str(category).strip():  # YAML reads 2024 as a number
            raise InputError(f"corpus {path}: a category needs a name, found {shown(category)}")
        for key in source.keys() - SOURCE_DEFAULTS.keys():
            near = get_close_matches(str(key), SOURCE_DEFAULTS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(SOURCE_DEFAULTS)}"
            raise InputError(f"corpus {path}, {category}: unknown key {short(str(key))}; {hint}")
        if not isinstance(source.get("path"), str):
            found = shown(source.get("path"))
            raise InputError(f"corpus {path}, {category}: `path` must name a dataset, found {found}")
        count = source.get("count", 1)
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise InputError(f"corpus {path}, {category}: `count` must be a whole number from 1, found {shown(count)}")
        seed = source.get("seed", 0)
        if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool) or seed < 0):
            raise InputError(f"corpus {path}, {category}: `seed` must be a whole number from 0, found {shown(seed)}")
        if (template := source.get("template")) is not None:
            beside = " beside a `column`" if "column" in source else ""
            if beside or not isinstance(template, str) or not _PLACE.search(template):
                raise InputError(
                    f"corpus {path}, {category}: `template` must be a text with the names of columns, such as "
                    f'"{{question}} {{answer}}", in place of a `column`; found {shown(template)}{beside}'
                )
        if (image := source.get("image")) is not None and (
            not isinstance(image, str) or "column" in source or source.get("template") is not None
        ):
            raise InputError(
                f"corpus {path}, {category}: `image` must be the name of a column with images, in place of a `column` "
                f"or a `template`; found {shown(image)}"
            )
    return {str(category): {**SOURCE_DEFAULTS, **source} for category, source in sources.items()}


def on_disk(yaml_file: Path, source: dict[str, Any]) -> bool:
    """Tell whether a source is a folder that is there, or a file, be it there or not, and no data set of the Hub."""
    local = local_path(yaml_file, source)
    return local.suffix in _BUILDERS or isdir(local)


def local_path(yaml_file: Path, source: dict[str, Any]) -> Path:
    """Return where the dataset of a source lies unless it is one of the Hub."""
    return yaml_file.parent / expanduser(source["path"])


def exemplars_of(yaml_file: Path, category: str, source: dict[str, Any]) -> Iterator[str | Picture]:
    """Yield the texts of a source, or the images where it names a column of some; raises InputError as it is read."""
    from datasets import Image  # seconds of import that a folder corpus need not pay

    where = f"corpus {yaml_file}, {category}"
    local = local_path(yaml_file, source)
    if local.suffix in _BUILDERS and not isfile(local):  # the library would look for it on the Hub, for half a minute
        raise InputError(f"{where}: {short(source['path'])} could not be read (there is no {short(str(local))})")
    if source["path"] in _KINDS and not local.exists():  # it would take whatever lies in the working folder
        raise InputError(
            f"{where}: {source['path']} is a kind of file; name the file, a folder or a data set of the Hub"
        )
    files_in(local)  # which bounds what the library looks through, ten times and more
    try:
        rows = _rows(local, source)
        if source["image"]:
            rows = rows.cast_column(source["image"], Image(decode=False))
        drawn = rows if source["seed"] is None else rows.shuffle(seed=source["seed"], buffer_size=_BUFFER)
        for number, row in enumerate(drawn.take(source["count"]), start=1):
            place = f"{where}, row {number}"
            if source["image"]:
                yield _picture(place, row, source["image"], f"{category} {number}")
            elif source["template"]:
                yield text_in(place, {"text": _filled(place, source["template"], row)}, "text", "change the `template`")
            else:
                yield text_in(place, row, source["column"], "name another `column`")
    except InputError:
        raise
    except Exception as error:  # whatever `datasets` and its file systems raise is about the source named here
        line = _not_utf8(local) if _BUILDERS.get(local.suffix) in _TEXT else None
        reason = f"line {line} is not Unicode; expected a file in UTF-8" if line else short(str(error))
        raise InputError(f"{where}: {short(source['path'])} could not be read ({reason})") from error


def _rows(local: Path, source: dict[str, Any]) -> Any:
    """Return the rows of a source, read as they are asked for; lines of a text file that have nothing are no rows."""
    from datasets import DatasetDict, load_dataset, load_from_disk

    if isdir(local) and any(isfile(local / name) for name in _SAVED):
        saved = load_from_disk(str(local))
        if isinstance(saved, DatasetDict):
            if source["split"] not in saved:
                raise ValueError(f"no split {source['split']}; it has {', '.join(saved)}")
            saved = saved[source["split"]]
        return saved.to_iterable_dataset()
    arguments: dict[str, Any] = {"name": source["config"], "split": source["split"], "streaming": True}
    builder = _BUILDERS.get(local.suffix)
    if not builder or not isfile(local):
        return load_dataset(str(local) if isdir(local) else source["path"], **arguments)
    if builder in _TEXT - {"json"}:
        arguments["encoding"] = "utf-8-sig"
    rows = load_dataset(builder, data_files=str(local), **arguments)
    return rows.filter(lambda row: row["text"].strip()) if builder == "text" else rows


def _not_utf8(file: Path) -> int | None:
    """Return the first line of a file, from 1, that is not in UTF-8; None where all are."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return None


def _picture(where: str, row: Mapping[str, Any], column: str, name: str) -> Picture:
    found = row.get(column)
    if not isinstance(found, Mapping) or not (found.get("bytes") or found.get("path")):
        raise InputError(f"{where}: no image under {shown(column)}, found keys {short(', '.join(map(str, row)))}")
    content = found["bytes"] or Path(found["path"])
    return Picture(name, lambda: content)


def text_in(where: str, record: Any, column: str, expected: str) -> str:
    """Return the text that a record has in a column; raises InputError, naming `where` it stands, if it has none."""
    if not isinstance(record, dict) or not isinstance(record.get(column), str):
        found = f"keys {short(', '.join(map(str, record)))}" if isinstance(record, dict) else type(record).__name__
        raise InputError(f"{where}: no string under {shown(column)}, found {found}; {expected}")
    try:
        record[column].encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: the text is not Unicode; expected a file in UTF-8") from None
    if not record[column].strip():
        raise InputError(f"{where}: the text is empty; {expected}")
    return record[column]


def _filled(where: str, template: str, row: Mapping[str, Any]) -> str:
    """Put what a row has into the places of a template."""

    def value(place: re.Match[str]) -> str:
        if not isinstance(found := row.get(place[1]), str | int | float):
            raise InputError(
                f"{where}: no text under {shown(place[1])}, which `template` names, found keys {short(', '.join(row))}"
            )
        return str(found)

    return _PLACE.sub(value, template)
