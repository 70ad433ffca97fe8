"""The ways work ends early that are not our failure: wrong input, the user's cancel, and a process that was lost."""

import errno
import reprlib
from collections.abc import Iterable
from difflib import get_close_matches

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}  # a disk's: wrong surroundings, no failure of ours
# Of a name that leads where this user may not go, or where nothing can be: wrong input.
PATH_ERRORS = {errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR}
_LONGEST = 10_000  # characters of a message that lists every reason against a large family
_SHOWN = 100  # characters of a value that was found
_CLOSE = 0.7  # difflib's ratio of two names from which on one may be meant by the other


class InputError(Exception):
    """The input is wrong; the message names the file, tensor or key, what was expected, what was found, what to do."""

    def __init__(self, message: str) -> None:
        """Keep the message; of one that is longer than anybody reads, as a file may hold anything, the two ends."""
        super().__init__(short(message, _LONGEST))


class Cancelled(Exception):
    """The user asked to stop; raised from a progress report, so that every reporting step can be cancelled."""


class ProcessLost(Exception):
    """Another process of the same work ended before it was done; the message says which."""


class _Repr(reprlib.Repr):
    """Python's own way to write a little of a value, however large it is and however deep."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 4, _SHOWN, _SHOWN
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 8

    def repr_int(self, value: int, level: int) -> str:
        """Write a whole number, of very many digits how many bits it has: Python refuses to write more than 4,300."""
        return repr(value) if value.bit_length() < 200 else f"a whole number of {value.bit_length():,} bits"


def out_of_memory(error: BaseException) -> bool:
    """Tell whether `error` says that memory of the machine or of the accelerator ran out."""
    # torch's own class is looked up by name: who sees an error need not import torch. On a CPU it raises a plain
    # RuntimeError of its allocator, or of C++'s.
    names = {kind.__name__ for kind in type(error).__mro__}
    told = ("can't allocate memory", "bad_alloc")
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or any(words in str(error) for words in told)


def shown(value: object) -> str:
    """Write a value that was found somewhere, for a message: as Python writes it, cut where that is long."""
    return short(_Repr().repr(value), _SHOWN)


def short(text: str, most: int = 2 * _SHOWN) -> str:
    """Return a text, of a long one its two ends."""
    return text if len(text) <= most else f"{text[: most * 2 // 3]} … {text[len(text) - most // 3 :]}"


def unknown(name: str, known: Iterable[str], where: str = "") -> str:
    """Say of a name that is unknown which close to it may be meant, and `where` all are; else what all are."""
    known, plain = list(dict.fromkeys(known)), name.casefold()
    near = [plain] if plain in known else get_close_matches(plain, known, cutoff=_CLOSE)
    if not near:
        return f"expected one of {', '.join(known)}; found {shown(name)}"
    meant = f"found {shown(name)}; did you mean {' or '.join(map(repr, near))}?"
    return f"{meant} ({where} lists all)" if where else meant
