"""What tests of pickled checkpoints share: a file of torch with other records, and a folder that is refused."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from nmerge_core.checkpoints import open_checkpoint
from nmerge_core.errors import InputError

EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def refused(folder: Path, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        open_checkpoint(str(folder))


class Malicious:
    """Anything that pickle would call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.called = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.called


def rewrite(
    file: Path,
    order: Callable[[list[str]], list[str]] = list,
    change: Callable[[str, bytes], bytes] = lambda name, content: content,
    compression: int = zipfile.ZIP_STORED,
) -> None:
    """Write an archive anew, with its records in another order, changed or compressed."""
    other = file.with_suffix(".other")
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(other, "w", compression) as target:
        for name in order(source.namelist()):
            target.writestr(name, change(name, source.read(name)))
    other.replace(file)
