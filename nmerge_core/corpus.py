"""Classification corpora: labelled exemplars from a folder of JSONL files or from a YAML of `datasets` sources."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from os.path import expanduser, isdir, isfile  # which raise of no name, where pathlib's do
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmerge_core.data_folder import files_in
from nmerge_core.errors import InputError, short, shown
from nmerge_core.yaml_file import read_mapping

GENERAL = "general"
SOURCE_DEFAULTS: dict[str, Any] = {
    "path": None, "config": None, "split": "train", "column": "text", "template": None, "count": 300, "seed": None
}  # fmt: skip
"""Keys of a YAML source; 300 exemplars a category is M of NeuronMerge §2.2."""
_BUFFER = 10_000  # rows among which the next is drawn where a source has a seed
_PLACE = re.compile(r"\{([^{}\n]+)\}")  # in a template; a column may have spaces and signs in its name
_KINDS = ("text", "json", "csv", "parquet", "arrow", "xml", "webdataset", "imagefolder", "audiofolder")  # of `datasets`
_SLICED = re.compile(r"(.+)\[(?::-([1-9]\d{0,17})|-([1-9]\d{0,17}):)\]", re.DOTALL)  # a list has no more lines


@dataclass(frozen=True)
class Exemplar:
    """A text with its category; `id` is its index in the corpus."""

    id: int
    category: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """Exemplars ordered by category, General first; equal fingerprints mean equal categories and texts."""

    reference: str
    categories: tuple[str, ...]
    exemplars: tuple[Exemplar, ...]
    fingerprint: str

    @property
    def labels(self) -> NDArray[np.int64]:
        """The (exemplars,) category index of every exemplar."""
        return np.array([self.categories.index(exemplar.category) for exemplar in self.exemplars], dtype=np.int64)


def whole_and_slice(reference: str) -> tuple[str, str]:
    """Part a corpus's reference into its path and which of its lines are meant: `corpus[:-60]` is corpus, [:-60]."""
    sliced = _SLICED.fullmatch(reference)
    return (sliced[1], reference[len(sliced[1]) :]) if sliced else (reference, "")


def corpus_files(path: Path) -> list[Path]:
    """Return the files of a whole corpus, and folders that its YAML names as sources; none where it is no corpus.

    Raises:
        InputError: it is a YAML file that does not say what a corpus is.
    """
    if isdir(path):
        return sorted(path.glob("*.jsonl"))
    if not isfile(path) or path.suffix not in (".yaml", ".yml"):
        return []
    return [path, *(_local(path, source) for source in _read_yaml(path).values())]


def load_corpus(reference: str, categories: Sequence[str] | None = None, *, per_category: int | None = None) -> Corpus:
    """Read a corpus: a folder with one `<category>.jsonl` per category, or a YAML file naming a source for each.

    Of `corpus[:-60]` the last 60 exemplars of each category are left out, of `corpus[-60:]` all others. A YAML source
    is `{path, config, split, column, template, count, seed}`, the first three as `datasets.load_dataset` takes them;
    `path` is a Hub id, a dataset folder, or a .jsonl/.json/.csv/.parquet file relative to the YAML. A text is what
    `column` has, or `template` with the columns it names: "{question} {answer}". The first `count` rows are taken, with
    a `seed` as many that are drawn, each among the next 10,000.

    Args:
        reference: the folder or the YAML file, or a slice of it.
        categories: the categories to read, all by default; General is always read and comes first.
        per_category: read only the first that many exemplars of each category.

    Raises:
        InputError: no such corpus, no General, an unknown category, an empty one, a line that is not
            `{"text": "…"}`, or categories of unequal size (the vote of Eq. 2 assumes the same M for each).
    """
    texts = read_texts(reference, categories, per_category=per_category)
    counts = {category: len(found) for category, found in texts.items()}
    smallest = min(counts.values())
    if per_category is not None and smallest < per_category or len(set(counts.values())) > 1:
        listed = ", ".join(f"{category} {count:,}" for category, count in counts.items())
        raise InputError(
            f"corpus {reference}: every category needs the same number of exemplars"
            f"{f', {per_category:,} were asked for' if per_category else ''}, found {listed}; "
            f"take {smallest:,} of each (per_category, or `count: {smallest}` for each category of a corpus YAML)"
        )
    return labelled(reference, texts)


def check_categories(reference: str, categories: Sequence[str]) -> None:
    """Check that a corpus has these categories, without reading a text; raises InputError as `load_corpus` does."""
    _chosen(reference, list(_sources(reference)[1]), categories)


def _sources(reference: str) -> tuple[Path, dict[str, Any]]:
    """Return where a corpus is, and the source of each category: a file, or what its YAML says."""
    path = Path(expanduser(whole_and_slice(reference)[0]))
    if isdir(path):
        return path, {file.stem: file for file in sorted(path.glob("[!.]*.jsonl"))}
    if isfile(path) and path.suffix in (".yaml", ".yml"):
        return path, _read_yaml(path)
    raise InputError(
        f"corpus {short(reference)}: expected a folder of <category>.jsonl files or a YAML file, found neither"
    )


def read_texts(
    reference: str, categories: Sequence[str] | None = None, *, per_category: int | None = None
) -> dict[str, list[str]]:
    """Read the texts of each category, of which there may be more in one than in another; else as `load_corpus`."""
    path, sources = _sources(reference)
    texts: dict[str, list[str]] = {}
    for category in _chosen(reference, list(sources), categories):
        source = sources[category]
        lines = _jsonl_texts(source) if isinstance(source, Path) else _dataset_texts(path, category, source)
        texts[category] = list(islice(_meant(lines, reference), per_category))
        if not texts[category]:
            raise InputError(f"corpus {reference}: category {category} has no exemplars; add some or leave it out")
    return texts


def labelled(reference: str, texts: Mapping[str, Sequence[str]]) -> Corpus:
    """Make a corpus of the texts of each category, in their order."""
    pairs = [(category, text) for category, found in texts.items() for text in found]
    exemplars = tuple(Exemplar(id, category, text) for id, (category, text) in enumerate(pairs))
    digest = hashlib.sha256(json.dumps(pairs, ensure_ascii=False).encode()).hexdigest()
    return Corpus(reference, tuple(texts), exemplars, digest)


def _meant(texts: Iterable[str], reference: str) -> Iterable[str]:
    """Return those of a category's texts that a reference means, all unless it is a slice."""
    sliced = _SLICED.fullmatch(reference)
    if sliced is None:
        return texts
    without, last = sliced[2], sliced[3]
    return list(texts)[: -int(without)] if without else list(texts)[-int(last) :]


def _chosen(reference: str, found: list[str], categories: Sequence[str] | None) -> list[str]:
    if GENERAL not in found:
        listed = ", ".join(found) or "nothing"
        raise InputError(f"corpus {reference}: expected a category {GENERAL} ({GENERAL}.jsonl), found {listed}")
    for category in categories or ():
        if category not in found:
            raise InputError(f"corpus {reference}: no category {category}; it has {', '.join(found)}")
    others = dict.fromkeys(found if categories is None else categories)
    return [GENERAL, *(category for category in others if category != GENERAL)]


def _jsonl_texts(file: Path) -> Iterator[str]:
    expected = 'expected {"text": "…"}'
    # A mark at the start says that it is UTF-8, as some editors write it; what is none is told with its line.
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{file.parent.name}/{file.name}, line {number}"
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:  # a JSONDecodeError, or a number of thousands of digits
                reason = error.msg if isinstance(error, json.JSONDecodeError) else short(str(error))
                raise InputError(f"{where}: not JSON ({reason}); {expected}") from None
            yield _text(where, record, "text", expected)


def _text(where: str, record: Any, column: str, expected: str) -> str:
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


def _read_yaml(path: Path) -> dict[str, dict[str, Any]]:
    sources = read_mapping(path, ("general", "other categories"))
    if not all(isinstance(source, dict) for source in sources.values()):
        raise InputError(f"corpus {path}: expected `category: {{{', '.join(SOURCE_DEFAULTS)}}}` for each category")
    for category, source in sources.items():
        if not category.strip():
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
    return {str(category): {**SOURCE_DEFAULTS, **source} for category, source in sources.items()}


def _local(yaml_file: Path, source: dict[str, Any]) -> Path:
    """Return where the dataset of a source lies unless it is one of the Hub."""
    return yaml_file.parent / expanduser(source["path"])


def _dataset_texts(yaml_file: Path, category: str, source: dict[str, Any]) -> Iterator[str]:
    from datasets import load_dataset  # seconds of import that a folder corpus need not pay

    where = f"corpus {yaml_file}, {category}"
    local = _local(yaml_file, source)
    builder = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}.get(local.suffix)
    if builder and not isfile(local):  # the library would look for it on the Hub, for half a minute
        raise InputError(f"{where}: {short(source['path'])} could not be read (there is no {short(str(local))})")
    if source["path"] in _KINDS and not local.exists():  # it would take whatever lies in the working folder
        raise InputError(
            f"{where}: {source['path']} is a kind of file; name the file, a folder or a data set of the Hub"
        )
    files_in(local)  # which bounds what the library looks through, ten times and more
    arguments: dict[str, Any] = {"name": source["config"], "split": source["split"], "streaming": True}
    try:
        if isfile(local) and builder:
            rows = load_dataset(builder, data_files=str(local), **arguments)
        else:
            rows = load_dataset(str(local) if isdir(local) else source["path"], **arguments)
        drawn = rows if source["seed"] is None else rows.shuffle(seed=source["seed"], buffer_size=_BUFFER)
        for number, row in enumerate(drawn.take(source["count"]), start=1):
            if source["template"]:
                row = {source["column"]: _filled(f"{where}, row {number}", source["template"], row)}
            yield _text(f"{where}, row {number}", row, source["column"], "name another `column`")
    except InputError:
        raise
    except Exception as error:  # whatever `datasets` and its file systems raise is about the source named here
        raise InputError(f"{where}: {short(source['path'])} could not be read ({short(str(error))})") from error
