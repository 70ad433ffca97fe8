"""Folders that people name for the files in them: looked through as far as a folder of data goes, and no further.

A home folder, or all of a disk, would be looked through for minutes, and again by each library that reads it.
"""

import os
from collections.abc import Iterator
from os.path import isdir, isfile
from pathlib import Path

from nmerge_core.errors import InputError, short

MOST = 100_000  # files and folders: a test set of ImageNet as files has half as many
DEEPEST = 10  # folders inside one another


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield a folder and those below with the names of their folders and files, hidden ones too, as `os.walk` does.

    Names taken out of the list of folders are not looked into; links to folders are not followed.

    Raises:
        InputError: there are more of them, or deeper ones, than in a folder of data.
    """
    count = 0
    for here, folders, files in os.walk(folder):
        count += len(folders) + len(files)
        place = Path(here)
        if count > MOST:
            raise _too_large(folder, f"at most {MOST:,} files and folders; found more")
        if len(place.relative_to(folder).parts) > DEEPEST:
            raise _too_large(folder, f"at most {DEEPEST} folders deep; found {short(here)}")
        yield place, folders, files


def files_in(path: Path) -> list[Path]:
    """Return a file, or all files of a folder and below it but hidden ones, which `datasets` passes over; sorted.

    Raises:
        InputError: the folder is too large for one of data.
    """
    if not isdir(path):
        return [path] if isfile(path) else []
    found = list[Path]()
    for folder, _, names in walk(path):
        if not any(part.startswith(".") for part in folder.relative_to(path).parts):
            found += [folder / name for name in names if not name.startswith(".")]
    return sorted(each for each in found if isfile(each))


def _too_large(folder: Path, expected: str) -> InputError:
    return InputError(
        f"{short(str(folder))}: expected a folder of data, {expected}; name one that holds the data alone"
    )
