"""The files that a task YAML of lm-evaluation-harness reads: YAML files it includes, code, and data."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from glob import glob
from itertools import takewhile
from os.path import expanduser, isdir, isfile
from pathlib import Path
from typing import Any

import yaml

from nmerge_core.errors import InputError
from nmerge_core.files.data_folder import files_in, walk
from nmerge_core.files.yaml_file import Loader, load

IMAGES = "image_classification"  # the `kind` of a task that is ours, of images, and not lm-eval's
_YAML = (".yaml", ".yml")
_WORD = re.compile(r"[^\s,\[\]{}'\"]{1,200}")
_MODULE = re.compile(r"!function\s+([\w.]+)\.\w")
_PATTERN = re.compile(r"(\w[^*]*)?\*[^*/]*\.\w+")  # of files: prose has asterisks too


class _Loader(Loader):
    """Reads a tag that YAML does not know, such as !function, as nothing."""


_Loader.add_multi_constructor("", lambda loader, suffix, node: None)


@dataclass(frozen=True)
class _Named:
    """What a YAML names: possible `names` of files, Python modules, data files, and data sets in full."""

    names: frozenset[str]
    modules: tuple[str, ...]
    data: tuple[str, ...]
    datasets: tuple[str, ...]
    of_images: bool = False
    text_model: str | None = None


def is_image_task(task: Path) -> bool:
    """Whether a task's YAML is one of images."""
    return _named_in(task).of_images


def text_model_of(task: Path) -> str | None:
    """Return the model whose texts tell the classes of an image task apart, where its YAML names one.

    That is a folder beside the YAML where there is one of that name.
    """
    named = _named_in(task).text_model
    if named and isdir(beside := task.parent / expanduser(named)):
        return str(beside.absolute())
    return named


def task_files(tasks: Iterable[Path]) -> set[Path]:
    """Return task YAMLs and all files that they name: data, YAML files they include, and the code beside theirs.

    Raises:
        InputError: a YAML holds more than one that somebody wrote, or a folder more than one of data.
    """
    found = {*tasks}
    unread = [(task, task.parent) for task in found]  # data count from the folder of the task, also where included
    while unread:
        file, folder = unread.pop()
        named = {each for start in {file.parent, folder} for each in _files(file, start)}
        unread += [(each, folder) for each in named - found if each.suffix in _YAML]
        found |= named
    return found


def yamls_below(folder: Path) -> list[Path]:
    """Return the files among which lm-eval finds the members of a group whose YAML lies in a folder.

    Raises:
        InputError: the folder is too large for one of data.
    """
    return [place / name for place, _, names in walk(folder) for name in names if name.endswith(".yaml")]


def check_task(file: Path) -> None:
    """Check that a file is the YAML of a task or of a group of tasks.

    Raises:
        InputError: there is no such file, or it is not.
    """
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise InputError(f"{file}: no such task; expected the path of its YAML") from None
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(
            f"{file}: expected the YAML of a task; {(str(error).splitlines() or ['unreadable'])[0]}"
        ) from None
    if not isinstance(content, Mapping) or not {"task", "group"} & content.keys():
        raise InputError(f"{file}: expected the YAML of a task, with the key 'task' or 'group'; found none of them")


def _files(file: Path, folder: Path) -> set[Path]:
    """Return the files that a YAML names, relative ones counted from `folder`."""
    named = _named_in(file)
    names = {*named.names, *_matching(folder, filter(_PATTERN.fullmatch, named.names))}
    found = {path for name in names if isfile(path := folder / expanduser(name))}  # also text too long for a name
    modules = [folder / f"{module.replace('.', '/')}.py" for module in named.modules]
    found |= {each for module in modules if isfile(module) for each in module.parent.glob("*.py")}
    data = [folder / expanduser(name) for name in (*named.data, *_matching(folder, named.data))]
    return found | {each for path in (*data, *map(Path, named.datasets)) for each in files_in(path)}


def _named_in(file: Path) -> _Named:
    status = file.stat()
    return _read(file, status.st_size, status.st_mtime_ns)


def _matching(folder: Path, patterns: Iterable[str]) -> list[str]:
    """Return what patterns lead to; of those that look into several folders a little more, as * passes over a slash."""
    found = list[str]()
    for pattern in (expanduser(pattern) for pattern in patterns if "*" in pattern):
        parts = Path(pattern).parts
        plain = [*takewhile(lambda part: "*" not in part, parts)]
        if len(plain) == len(parts) - 1 and "**" not in pattern:
            found += glob(pattern, root_dir=folder)
        else:
            start, rest = folder.joinpath(*plain), "/".join(parts[len(plain) :]).replace("**/", "*")
            found += [str(each) for each in files_in(start) if fnmatchcase(str(each.relative_to(start)), rest)]
    return found


@lru_cache(maxsize=256)
def _read(file: Path, size: int, modified: int) -> _Named:
    """Read what a YAML names; `modified` is there to make the cache forget a rewritten file."""
    text = file.read_text(encoding="utf-8", errors="replace")
    try:
        content = load(text, str(file), _Loader)
    except yaml.YAMLError:  # lm-eval will say so
        content = None
    task = content if isinstance(content, Mapping) else {}
    names = frozenset([*_WORD.findall(text), *_strings(content)])
    if task.get("kind") == IMAGES:
        data, text_model = task.get("data"), task.get("text_model")
        folder = data.get("path") if isinstance(data, Mapping) else data
        return _Named(names, (), tuple(_strings(folder)), (), True, text_model if isinstance(text_model, str) else None)
    given = task.get("dataset_kwargs")
    settings = given if isinstance(given, Mapping) else {}
    return _Named(
        names,
        tuple(_MODULE.findall(text)),
        tuple(_strings(settings.get("data_files"))),
        tuple(map(os.path.abspath, _strings([task.get("dataset_path"), settings.get("data_dir")]))),
    )


def _strings(content: Any) -> Iterator[str]:
    """Yield every text in lists and mappings that is not empty."""
    if isinstance(content, str):
        yield from [content] if content else []
    elif isinstance(content, Mapping | list):
        for each in content.values() if isinstance(content, Mapping) else content:
            yield from _strings(each)
