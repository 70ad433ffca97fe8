"""What a report has measured so far: each part a file of its folder, named after all that it follows from."""

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from nmerge_core.errors import InputError
from nmerge_core.files.folders import make_folder
from nmerge_core.files.kept_files import digest, read_object, read_parquet, write_json

_RECORD, _LOCK = "report.json", ".lock"
_VERSION = 3  # raised when what is measured changes: parts of an older one are made anew


class Parts:
    """The parts of one folder; a part that is there is read, another one is made and kept in one step."""

    def __init__(self, folder: Path, prints: Mapping[str, str], *more: Any) -> None:
        """Begin with the fingerprint of each input, and what else decides every part; `made` counts those made now."""
        self.folder, self.made = folder, 0
        self._prints, self._more = prints, more

    def name(self, kind: str, inputs: Mapping[str, Any]) -> str:
        """Return what a part is called: what tells it from others is the content of its inputs, not their names."""
        content = {key: self._content(value) for key, value in inputs.items()}
        return f"{kind}-{digest([_VERSION, self._more, content])}"

    def frame(self, kind: str, inputs: Mapping[str, Any], make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """Return a table, made now unless it is there; raises Damaged where what is there is none."""
        file = self.folder / f"{self.name(kind, inputs)}.parquet"
        if not file.exists():
            made = make()
            self.made += 1
            temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
            try:
                made.to_parquet(temporary, index=False)
                os.replace(temporary, file)
            finally:
                temporary.unlink(missing_ok=True)
        return read_parquet(file)

    def folder_of(self, kind: str, inputs: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        """Return a folder, made now by what leaves it only when it is complete, unless it is there."""
        folder = self.folder / self.name(kind, inputs)
        if not folder.exists():
            make(folder)
            self.made += 1
        return folder

    def _content(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._prints.get(value, value)
        if isinstance(value, Mapping):
            return {self._content(key): self._content(each) for key, each in value.items()}
        return [self._content(each) for each in value] if isinstance(value, list | tuple) else value


def begin(out: Path, family: Mapping[str, Any], prints: Mapping[str, str]) -> list[str]:
    """Make a report's folder, or check that the one that is there is of this family; return what was changed since.

    Raises:
        InputError: the folder holds something else, or the report of another family.
    """
    file, record = out / _RECORD, {"family": family, "sources": dict(prints)}
    before: dict[str, Any] = {}
    if file.exists():
        before = read_object(file, {"family": dict, "sources": dict})
        models = ("base", "models")
        if [before["family"].get(key) for key in models] != [family.get(key) for key in models]:
            raise InputError(f"{out}: holds the report of another family; name another folder")
    elif out.exists() and (not out.is_dir() or any(not each.name.startswith(".") for each in out.iterdir())):
        raise InputError(f"{out}: exists already; expected a new folder, or one that a report has begun")
    make_folder(out / "parts")
    write_json(file, record)
    return [name for name, was in before.get("sources", {}).items() if prints.get(name, was) != was]


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Be the only process that makes the report of a folder; the kernel frees the lock however the process ends.

    Raises:
        InputError: another process makes it.
    """
    with (out / "parts" / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{out}: another process makes this report; wait for it, or name another folder") from None
        yield
