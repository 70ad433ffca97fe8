"""What is in a corpus: lengths of its texts, texts that are there twice or say little, and what tasks ask too."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nmerge_core.checkpoints.vocabulary import TOKENIZER
from nmerge_core.corpus.corpus import Corpus

SHORT = 8  # tokens; a text of fewer says little of what it is about
SHARED = (13, 8)
"""Words in a row that a text shares with a problem where it holds a part of it (13: Brown et al. 2020, App. C).

Of problems of fewer than 13 words 8 in a row count; shorter ones are left out, as many texts share a few words.
"""
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|\w+")  # Chinese and Japanese are written without spaces
_LARGEST = 50_000_000  # bytes of a task's file that is read


def corpus_facts(corpus: Corpus, tokenizer: Path | None, problems: Mapping[str, Iterable[str]]) -> pd.DataFrame:
    """Describe each category of a corpus.

    Args:
        corpus: the corpus.
        tokenizer: a model's folder, by whose tokenizer.json texts are cut; words are counted where there is none.
        problems: the texts that tasks ask, by the tasks' names.

    Returns:
        category, texts; tokens, shortest, median, longest (tokens, or words); repeated (texts that are there before,
        in any category, spaces aside), short (of fewer than `SHORT`); and for each task how many texts hold a part of
        one of its problems (`SHARED`), under "in TASK".
    """
    texts = [exemplar.text for exemplar in corpus.exemplars]
    seen, repeated = set[str](), []
    for text in texts:
        plain = " ".join(text.split())
        repeated.append(plain in seen)
        seen.add(plain)
    lengths = _lengths(texts, tokenizer)
    frame = pd.DataFrame(
        {
            "category": [exemplar.category for exemplar in corpus.exemplars],
            "length": lengths,
            "repeated": repeated,
            "short": lengths < SHORT,
            **{f"in {task}": _shared(texts, asked) for task, asked in problems.items()},
        }
    )
    by_category = frame.groupby("category", sort=False)
    found = by_category["length"].agg(texts="size", tokens="sum", shortest="min", median="median", longest="max")
    counted = [name for name in frame if name not in ("category", "length")]
    return found.join(by_category[counted].sum()).reset_index()


def image_facts(corpus: Corpus) -> pd.DataFrame:
    """Describe each category of a corpus of images: category, images, repeated (there before, byte by byte)."""
    pictures = [exemplar.picture for exemplar in corpus.exemplars if exemplar.picture]
    frame = pd.DataFrame(
        {"category": [each.category for each in corpus.exemplars], "digest": [each.digest for each in pictures]}
    )
    by_category = frame.assign(repeated=frame["digest"].duplicated()).groupby("category", sort=False)
    return by_category["repeated"].agg(images="size", repeated="sum").reset_index()


def problem_texts(files: Iterable[Path]) -> Iterator[str]:
    """Yield every text in the lines of JSONL files; what is none is passed over, and so are files of over 50 MB."""
    for file in files:
        if file.suffix != ".jsonl" or file.stat().st_size > _LARGEST:
            continue
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, RecursionError):
                yield from _strings(json.loads(line))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(each)


def _lengths(texts: Sequence[str], tokenizer: Path | None) -> "np.ndarray[Any, np.dtype[np.int64]]":
    if tokenizer is None or not (tokenizer / TOKENIZER).is_file():
        return np.array([len(_WORD.findall(text)) for text in texts])
    from tokenizers import Tokenizer

    reader = Tokenizer.from_file(str(tokenizer / TOKENIZER))
    reader.no_truncation()
    reader.no_padding()
    return np.array([len(each.ids) for each in reader.encode_batch(texts)])


def _shared(texts: Sequence[str], problems: Iterable[str]) -> list[bool]:
    """Tell which texts hold a part of a problem."""
    parts = set[tuple[str, ...]]()
    for problem in problems:
        words = _words(problem)
        length = next((each for each in SHARED if len(words) >= each), 0)
        if length:
            parts.update(_runs(words, length))
    return [any(run in parts for length in SHARED for run in _runs(_words(text), length)) for text in texts]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _runs(words: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[start : start + length]) for start in range(len(words) - length + 1))
