"""Classification corpora: labelled texts or images, from a folder or from a YAML of `datasets` sources."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from os.path import expanduser, isdir, isfile  # which raise of no name, where pathlib's do
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from nmerge_core.corpus.sources import exemplars_of, local_path, on_disk, read_sources, text_in
from nmerge_core.errors import InputError, short
from nmerge_core.pictures import Picture, pictures_in

GENERAL = "general"
_SLICED = re.compile(r"(.+)\[(?::-([1-9]\d{0,17})|-([1-9]\d{0,17}):)\]", re.DOTALL)  # a list has no more lines


@dataclass(frozen=True)
class Exemplar:
    """A text with its category; `id` is its index in the corpus. Of an image the text is its name."""

    id: int
    category: str
    text: str
    picture: Picture | None = None


@dataclass(frozen=True)
class Corpus:
    """Exemplars ordered by category, General first; equal fingerprints mean equal categories and texts, or images."""

    reference: str
    categories: tuple[str, ...]
    exemplars: tuple[Exemplar, ...]
    fingerprint: str

    @property
    def images(self) -> bool:
        """Whether the exemplars are images."""
        return self.exemplars[0].picture is not None

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
        return sorted(path.glob("*.jsonl")) or _folders_of_images(path)
    if not isfile(path) or path.suffix not in (".yaml", ".yml"):
        return []
    return [path, *(local_path(path, source) for source in read_sources(path).values())]


def load_corpus(
    reference: str, categories: Sequence[str] | None = None, *, per_category: int | None = None, images: bool = False
) -> Corpus:
    """Read a corpus: a folder with one `<category>.jsonl` per category, or a YAML file naming a source for each.

    A folder with a folder of images per category is a corpus of images, and so is a YAML whose sources name the column
    that has them as `image`.

    Of `corpus[:-60]` the last 60 exemplars of each category are left out, of `corpus[-60:]` all others. A YAML source
    is `{path, config, split, column, template, image, count, seed}`, the first three as `load_dataset` takes them;
    `path` is a Hub id, a dataset folder, or a .jsonl/.json/.csv/.parquet/.txt file relative to the YAML. A text is what
    `column` has, or `template` with the columns it names: "{question} {answer}". The first `count` rows are taken, with
    a `seed` as many that are drawn, each among the next 10,000.

    Args:
        reference: the folder or the YAML file, or a slice of it.
        categories: the categories to read, all by default; General is always read and comes first.
        per_category: read only the first that many exemplars of each category.
        images: whether it may be of images, which only what shows them to a model can take.

    Raises:
        InputError: no such corpus, it is of images where texts are needed, no General, an unknown category, an empty
            one, a line that is not `{"text": "…"}`, or categories of unequal size (the vote of Eq. 2 assumes the same
            M for each).
    """
    texts = _read(reference, categories, per_category) if images else read_texts(reference, categories, per_category)
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


def is_of_images(reference: str) -> bool:
    """Tell whether a corpus is of images, none of which is read; raises InputError where there is none."""
    _, sources = _sources(reference)
    return any(isdir(each) if isinstance(each, Path) else bool(each["image"]) for each in sources.values())


def is_on_disk(reference: str) -> bool:
    """Tell whether a corpus has nothing of the Hub, without reading a text; raises InputError where there is none."""
    path, sources = _sources(reference)
    return all(isinstance(each, Path) or on_disk(path, each) for each in sources.values())


def check_categories(reference: str, categories: Sequence[str]) -> None:
    """Check that a corpus has these categories, without reading a text; raises InputError as `load_corpus` does."""
    _chosen(reference, list(_sources(reference)[1]), categories)


def _sources(reference: str) -> tuple[Path, dict[str, Any]]:
    """Return where a corpus is, and the source of each category: a file, or what its YAML says."""
    path = Path(expanduser(whole_and_slice(reference)[0]))
    if isdir(path):
        files = {file.stem: file for file in sorted(path.glob("[!.]*.jsonl"))}
        return path, files or {folder.name: folder for folder in _folders_of_images(path)}
    if isfile(path) and path.suffix in (".yaml", ".yml"):
        return path, read_sources(path)
    raise InputError(
        f"corpus {short(reference)}: expected a folder of <category>.jsonl files or a YAML file, found neither"
    )


def _folders_of_images(path: Path) -> list[Path]:
    """Return the folders of a folder that have images in them."""
    folders = sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))
    return [folder for folder in folders if pictures_in(folder, path)]


def read_texts(
    reference: str, categories: Sequence[str] | None = None, per_category: int | None = None
) -> dict[str, list[str]]:
    """Read the texts of each category, of which there may be more in one than in another; else as `load_corpus`."""
    texts: dict[str, list[str]] = {}
    for category, found in _read(reference, categories, per_category).items():
        texts[category] = [each for each in found if isinstance(each, str)]
        if not texts[category]:
            raise InputError(f"corpus {reference}: expected texts, found images, which neurons alone are classified by")
    return texts


def _read(
    reference: str, categories: Sequence[str] | None, per_category: int | None
) -> dict[str, list[str]] | dict[str, list[Picture]]:
    """Read the texts, or the images, of each category."""
    path, sources = _sources(reference)
    read: dict[str, list[Any]] = {}
    for category in _chosen(reference, list(sources), categories):
        source = sources[category]
        if isinstance(source, Path):
            found: Iterable[Any] = pictures_in(source, path) if isdir(source) else _jsonl_texts(source)
        else:
            found = exemplars_of(path, category, source)
        read[category] = list(islice(_meant(found, reference), per_category))
        if not read[category]:
            raise InputError(f"corpus {reference}: category {category} has no exemplars; add some or leave it out")
    if len({type(found[0]) for found in read.values()}) > 1:
        raise InputError(f"corpus {reference}: expected texts in all categories or images in all, found both")
    return read


def labelled(reference: str, found: Mapping[str, Sequence[str]] | Mapping[str, Sequence[Picture]]) -> Corpus:
    """Make a corpus of the texts, or the images, of each category, in their order."""
    pairs = [(category, each) for category, own in found.items() for each in own]
    exemplars = tuple(
        Exemplar(id, category, each) if isinstance(each, str) else Exemplar(id, category, each.name, each)
        for id, (category, each) in enumerate(pairs)
    )
    content = [(category, each if isinstance(each, str) else each.digest) for category, each in pairs]
    digest = hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()
    return Corpus(reference, tuple(found), exemplars, digest)


def _meant(texts: Iterable[Any], reference: str) -> Iterable[Any]:
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
    with _opened(file) as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{file}, line {number}"
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:  # a JSONDecodeError, or a number of thousands of digits
                reason = error.msg if isinstance(error, json.JSONDecodeError) else short(str(error))
                raise InputError(f"{where}: not JSON ({reason}); {expected}") from None
            yield text_in(where, record, "text", expected)


def _opened(file: Path) -> TextIO:
    try:
        return file.open(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
