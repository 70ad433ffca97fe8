"""What every generator of the demo yields, and how the three splits stay disjoint."""

import hashlib
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "test", "corpus"]


@dataclass(frozen=True)
class Example:
    """One generated document; `text` is what a model trains on, `prompt` + the expected `answer` where it is a task.

    `key` names the problem (a question, a function's chain of operations, the English side of a translation): examples
    that share it always fall into the same split.
    """

    key: str
    text: str
    prompt: str = ""
    answer: str = ""
    tests: str = ""  # code: assert statements, one a line
    entry_point: str = ""  # code: the function's name
    direction: str = ""  # translation: en-es or es-en


def split_of(key: str) -> Split:
    """The split a problem belongs to, by a hash of its key: 8 % test, 8 % corpus, the rest train."""
    bucket = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "big") % 100
    return "test" if bucket < 8 else "corpus" if bucket < 16 else "train"
