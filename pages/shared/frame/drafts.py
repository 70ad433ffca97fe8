"""A text in a page's address: compressed where it is short, else the name of a draft that the cache keeps."""

import hashlib
import os
import re
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from contextlib import suppress
from pathlib import Path

from nmerge_core.cache import cache_root, make_private
from nmerge_core.files.kept_files import write_text
from nmerge_core.files.yaml_file import LARGEST

LONGEST = 1500  # characters in an address: with all else in it, what mail and messengers leave whole
KEPT = 100  # drafts, the newest ones
_DRAFT = re.compile(r"draft-([0-9a-f]{16})")


def packed(text: str) -> str | None:
    """Return what stands for a text in the address; None where the draft it needs cannot be kept."""
    short = urlsafe_b64encode(zlib.compress(text.encode(), 9)).decode().rstrip("=")
    if len(short) <= LONGEST:
        return short
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    try:
        _keep(_folder() / f"{name}.yaml", text)
    except OSError:  # as on a full disk: the text itself is in no danger
        return None
    return f"draft-{name}"


def unpacked(asked: str) -> str | None:
    """Return the text that stands behind a part of an address; None where that is cut off, or its draft gone."""
    if draft := _DRAFT.fullmatch(asked):
        with suppress(OSError, UnicodeDecodeError):
            return (_folder() / f"{draft[1]}.yaml").read_text(encoding="utf-8")
        return None
    stream = zlib.decompressobj()
    try:  # bounded, as a few letters of an address may stand for gigabytes
        text = stream.decompress(urlsafe_b64decode(asked + "=" * (-len(asked) % 4)), LARGEST).decode()
    except (ValueError, zlib.error):
        return None
    return text if stream.eof else None


def _folder() -> Path:
    return cache_root() / "drafts"


def _keep(file: Path, text: str) -> None:
    """Write a draft unless it is there, whole or not at all, and let the oldest go."""
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    make_private(cache_root())
    write_text(file, text, 0o600)
    for old in sorted(file.parent.glob("*.yaml"), key=os.path.getmtime)[:-KEPT]:
        old.unlink(missing_ok=True)
