"""The demo's four kinds of generated text; all of the wording is our own."""

import random
from collections.abc import Callable, Iterator

from nmerge_core.demo.text import code, general, math, translation
from nmerge_core.demo.text.example import Example, Split, split_of

GENERATORS: dict[str, Callable[[random.Random], Example]] = {
    "general": general.generate,
    "math": math.generate,
    "code": code.generate,
    "translation": translation.generate,
}
CATEGORIES = tuple(GENERATORS)


def examples(category: str, split: Split, seed: int) -> Iterator[Example]:
    """Endless examples of one category and split, reproducible from the seed."""
    rng = random.Random(f"{category}-{split}-{seed}")
    generate = GENERATORS[category]
    while True:
        example = generate(rng)
        if split_of(example.key) == split:
            yield example


def distinct(category: str, split: Split, seed: int, count: int) -> list[Example]:
    """The first `count` examples of `examples` that are different problems."""
    found: dict[str, Example] = {}
    for example in examples(category, split, seed):
        found.setdefault(example.key, example)
        if len(found) == count:
            break
    return list(found.values())


__all__ = ["CATEGORIES", "GENERATORS", "Example", "Split", "distinct", "examples", "split_of"]
