"""Folders of results: there only when they are complete."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmerge_core.errors import InputError
from nmerge_core.files.in_use import InUse

if TYPE_CHECKING:
    from torch import Tensor


def check_free(out: Path) -> None:
    """Raise InputError where `out` is anything but a new or empty folder, or cannot be written."""
    parent = next(folder for folder in out.absolute().parents if os.path.exists(folder))
    if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
        raise InputError(f"{out}: cannot be written; expected a folder that you may write to, found {parent}")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: exists already; expected a new or empty folder, choose another or remove it")


def make_folder(out: Path) -> None:
    """Make a folder, unless it is there; raises InputError where it cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); name another folder") from error


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a temporary folder beside `out` that becomes `out` when the block ends well, and vanishes otherwise.

    Raises:
        InputError: `out` exists and is not an empty folder, or its parent cannot be written.
    """
    check_free(out)
    part = out.parent / f".{out.name}.{os.getpid()}.part"
    new = [folder for folder in out.absolute().parents if not folder.exists()]
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from error
    used = InUse(part)
    try:
        yield part
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        del used
        with suppress(OSError):  # what else is in them is somebody's
            for folder in new:
                folder.rmdir()


@contextmanager
def resumed_folder(out: Path) -> Iterator[Path]:
    """Give a folder beside `out` that becomes `out` when the block ends well; what was stopped goes on with it.

    It is there for one process at a time: another one gets a `new_folder` meanwhile. It vanishes where the block finds
    an input wrong, or the disk full.

    Raises:
        InputError: as `new_folder`.
    """
    check_free(out)
    part = out.parent / f".{out.name}.part"
    make_folder(part)
    with ExitStack() as stack:
        held = os.open(part, os.O_RDONLY)
        stack.callback(os.close, held)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = part.exists() and os.path.samestat(os.fstat(held), part.stat())  # else it has become `out` meanwhile
        except BlockingIOError:
            free = False
        if not free:
            yield stack.enter_context(new_folder(out))
            return
        try:
            yield part
            os.replace(part, out)
        except (InputError, OSError):
            shutil.rmtree(part, ignore_errors=True)
            raise


def copy_folder(source: Path, folder: Path) -> None:
    """Copy what is in a folder into another; raises InputError where it cannot be written."""
    try:
        shutil.copytree(source, folder, dirs_exist_ok=True)
    except shutil.Error as error:  # of each file that could not be copied: where from, where to, and why
        raise InputError(f"{folder}: {error.args[0][0][2]}; check that the disk has room and can be written") from error


def save_tensors(tensors: "dict[str, Tensor]", file: Path) -> None:
    """Write a safetensors file, with the permissions of any other new file in its folder."""
    from safetensors.torch import save_file

    save_file(tensors, file)
    file.chmod(file.parent.stat().st_mode & 0o666)  # safetensors lets the owner alone read


def write_meta(folder: Path, meta: Mapping[str, Any]) -> None:
    """Write meta.json."""
    (folder / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
