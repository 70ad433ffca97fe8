"""Which texts show a neuron: its strongest, some of every strength, or some at random; each text once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

STRONGEST, BANDS, RANDOM = "strongest", "quantile bands", "random"
WAYS = (STRONGEST, BANDS, RANDOM)


@dataclass(frozen=True)
class Shown:
    """A text that is shown: its id, and why it is there, with how many more exemplars have the very same text."""

    id: int
    title: str


def choose_texts(ids: Sequence[int], texts: Sequence[str], way: str, count: int, seed: Sequence[int]) -> list[Shown]:
    """Choose at most `count` texts of a neuron.

    Args:
        ids: all exemplars by their scores, the strongest first.
        texts: the text of each exemplar by its id; equal ones are shown once.
        way: `STRONGEST`; `BANDS`, the text in the middle of each of `count` bands with equally many texts; `RANDOM`.
        count: how many.
        seed: what random texts are drawn by, as the layer and the neuron.
    """
    first, copies = dict[str, int](), dict[int, int]()
    for id in ids:
        shown = first.setdefault(texts[id], id)
        copies[shown] = copies[shown] + 1 if shown in copies else 0
    distinct = list(copies)
    folded = {id: f" · and {number} more of the same text" if number else "" for id, number in copies.items()}
    return [
        Shown(distinct[rank], title + folded[distinct[rank]]) for rank, title in _ranks(len(distinct), way, count, seed)
    ]


def _ranks(total: int, way: str, count: int, seed: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Yield places in the order of strength, each with its title."""
    count = min(count, total)
    if way == STRONGEST:
        yield from ((rank, f"{rank + 1}") for rank in range(count))
    elif way == BANDS:
        for band in range(count):
            low, high = (round(100 * (1 - edge / count)) for edge in (band + 1, band))
            yield total * (2 * band + 1) // (2 * count), f"{low} to {high} %"
    else:
        drawn = np.random.default_rng(list(seed)).choice(total, count, replace=False)
        yield from ((int(rank), f"{place + 1}") for place, rank in enumerate(drawn))
