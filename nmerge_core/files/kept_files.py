"""Files that NMerge wrote and reads again: made in one step, and told of as damaged where they are not as written."""

import fcntl
import json
import math
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from nmerge_core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
_NAMES = ("model", "group", "category", "task")  # columns of texts that may look like numbers
_DIGESTED = 8 << 20  # bytes of a file whose content is told by a digest; of a larger one, such as weights, by its size


class Damaged(InputError):
    """A file that NMerge wrote is not as it was written."""

    def __init__(self, path: Path, found: str) -> None:
        """Say which, what was found, and what to do."""
        super().__init__(f"{path}: damaged, {found}; delete it, or make it anew")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise Damaged, which names `path`, for whatever goes wrong in reading it or is not there."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise Damaged(path, "found nothing there") from error
    except IsADirectoryError as error:
        raise Damaged(path, "found a folder") from error
    except Exception as error:  # each format's reader has errors of its own
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise Damaged(path, f"found something else than was written ({said[:200]})") from error


def read_object(path: Path, known: Mapping[str, type] | None = None) -> dict[str, Any]:
    """Read a JSON object; raises Damaged where it is none, or lacks a key of `known` or its type."""
    with reading(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError(f"expected an object, found {type(content).__name__}")
        for name, kind in (known or {}).items():
            if not isinstance(content.get(name), kind):
                raise TypeError(f"{name}: expected {kind.__name__}, found {type(content.get(name)).__name__}")
    return content


def read_csv(path: Path, columns: Collection[str] = (), **options: Any) -> "pd.DataFrame":
    """Read a table; raises Damaged where it is none, or lacks one of `columns`.

    Names are read as they were written, as a category may be called 2024, NA or null: only what is empty is missing.
    Beside them nan is too, which csv writes of a number that is none, as a trial's score may be.
    """
    import pandas as pd

    with reading(path):
        missing = {name: ["", *["nan"] * (name not in _NAMES)] for name in pd.read_csv(path, nrows=0).columns}
        as_written = {"dtype": dict.fromkeys(_NAMES, "str"), "keep_default_na": False, "na_values": missing}
        return _with_columns(pd.read_csv(path, **{**as_written, **options}), columns)


def read_parquet(path: Path, columns: Collection[str] = ()) -> "pd.DataFrame":
    """Read a table; raises Damaged where it is none, or lacks one of `columns`."""
    import pandas as pd

    with reading(path), path.open("rb") as file:  # of a folder pandas would read all that is in it
        return _with_columns(pd.read_parquet(file), columns)


def _with_columns(frame: "pd.DataFrame", columns: Collection[str]) -> "pd.DataFrame":
    lacking = [name for name in columns if name not in frame.columns]
    if lacking:
        raise ValueError(f"no column {', '.join(lacking)}")
    return frame


def typed(kind: type[T], content: Any, **given: Any) -> T:
    """Make a data class of a JSON object and of what is `given`; keys that it does not have are left out.

    Raises:
        TypeError: it is no object, a value is not of its field's type, or one is missing.
    """
    if not isinstance(content, dict):
        raise TypeError(f"expected an object, found {type(content).__name__}")
    hints = get_type_hints(kind)
    assert is_dataclass(kind)
    names = {field.name for field in fields(kind) if field.name in content and field.name not in given}
    for name in sorted(names):
        if not _is(content[name], hints[name]):
            raise TypeError(f"{name}: found {type(content[name]).__name__}")
    return kind(**{name: content[name] for name in names}, **given)


def _is(value: Any, hint: Any) -> bool:
    """Tell whether a value of JSON is of a type; every number is finite."""
    if hint is Any:
        return True
    if isinstance(hint, UnionType):
        return any(_is(value, each) for each in get_args(hint))
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(_is(each, get_args(hint)[1]) for each in value.values())
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return value is None if hint is NoneType else isinstance(value, hint)


def write_json(path: Path, content: Any, mode: int = 0o666) -> None:
    """Write `content` as JSON as `write_text` does."""
    write_text(path, json.dumps(content, indent=1), mode)


def write_text(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a text in one step, whatever stands in its place; `mode` says who may read it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        made = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(made, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        if path.is_dir():
            remove(path)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Make a folder, and keep other processes and pages from changing its files while the block lasts."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it, as far as there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def digest(content: Any) -> str:
    """Return 16 hex digits of what JSON has of `content`."""
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def sealed(folder: Path) -> dict[str, str]:
    """Return what every file below a folder is known by: its size, and of one that is not large its digest."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {file.relative_to(folder).as_posix(): _seal(file, *_stamp(file)) for file in files}


def check_sealed(folder: Path, seals: Mapping[str, str]) -> None:
    """Raise Damaged for the first file below a folder that is not as it was sealed; others may have come."""
    for name, seal in seals.items():
        file = folder / name
        with reading(file):
            found = _seal(file, *_stamp(file))
        if found != seal:
            raise Damaged(file, f"expected {seal}, found {found} (bytes and digest)")


def _stamp(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


@lru_cache(maxsize=8192)  # pages look at every run several times a second: a file is read again when it was changed
def _seal(file: Path, size: int, modified: int, place: int) -> str:
    if size > _DIGESTED and file.is_file():
        return str(size)
    return f"{size} {sha256(file.read_bytes()).hexdigest()[:16]}"
