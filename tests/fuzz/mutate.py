"""Mutations of what YAML and JSON hold, and of their text, each drawn from a generator."""

import copy
from random import Random
from typing import Any

# What a reader may meet where it expects something else.
VALUES: tuple[Any, ...] = (None, True, False, 0, 1, -1, 5, 0.5, -0.0, 1e308, 2**31, 2**63, -(2**63) - 1, 2**64, 10**30)
VALUES += (float("nan"), float("inf"), float("-inf"), "", " ", ".", "..", "/", "~", "~nobody/x", "base", "union", "x")
VALUES += (
    "x" * 300,
    "x/" * 3000,
    "a" * 100_000,
    "a\0b",
    "\ud800",
    "é\u202e\x1b[31m",
    "1e-1",
    "auto",
    "[",
    "*",
    "(",
    "+",
)
VALUES += ("a+b", "+", "a/b", "/dev/zero", "/dev/null", "/proc/self/mem", "/etc/passwd", "\n", "- a\n- b", "{{x}}")
VALUES += ([], {}, [[]], [None], [0.1, None], [1, "a"], [[0.1, 0.2]], [True], {"a": None}, {"": {}}, {"value": 1})
VALUES += ([{"value": 0.5}], [{"filter": "mlp", "value": 1}, {"value": [0, 1]}], [{"filter": None}], {"method": "ties"})
VALUES += ({"kind": "zero"}, {"source": "base"}, {"source": {"kind": "model_token"}}, [0] * 3000, {"a": {"b": [{}]}})


def places(content: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in lists and mappings."""
    found = [at] if at else []
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(inside)[:200]:
        found += places(value, (*at, key))
    return found


def mutated(content: Any, random: Random) -> Any:
    """Return lists and mappings with one to three changes: a value replaced, wrapped, taken out, doubled, renamed."""
    content = copy.deepcopy(content)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if not (known := places(content)):
            return random.choice(VALUES)
        *way, last = random.choice(known)
        inside = content
        for key in way:
            inside = inside[key]
        _change(inside, last, random, content)
    return content


def _change(inside: Any, key: Any, random: Random, whole: Any) -> None:
    kind = random.randrange(10)
    if kind < 5:
        inside[key] = copy.deepcopy(random.choice(VALUES))
    elif kind == 5:
        inside[key] = random.choice(([inside[key]], {"a": inside[key]}, str(inside[key]), [inside[key]] * 3))
    elif kind == 6:
        del inside[key]
    elif kind == 7 and isinstance(inside, dict):
        inside[random.choice(("", "x", "methd", "model", 3, None, 1.5, True, "parameters", "filter"))] = inside.pop(key)
    elif kind == 8:
        inside[key] = deep(random.choice((5, 60, 150)))
    else:
        *way, last = random.choice(places(whole))
        for step in way:
            whole = whole[step]
        inside[key] = copy.deepcopy(whole[last])


def deep(levels: int) -> Any:
    """Return lists inside lists."""
    found: Any = []
    for _ in range(levels):
        found = [found]
    return found


def mutated_bytes(text: bytes, random: Random, snippets: tuple[bytes, ...]) -> bytes:
    """Return text with one to three changes: bytes flipped, cut, doubled, a snippet put in or in place of something."""
    for _ in range(random.choice((1, 1, 2, 3))):
        start = random.randrange(len(text) + 1)
        stop = min(start + random.choice((0, 1, 1, 4, 30)), len(text))
        kind = random.randrange(6)
        if kind == 0:
            text = text[:start] + bytes([random.randrange(256)]) + text[start + 1 :]
        elif kind == 1:
            text = text[:start] + text[stop:]
        elif kind == 2:
            text = text[:start]
        elif kind == 3:
            text = text[:stop] + text[start:]
        else:
            text = text[:start] + random.choice(snippets) + text[stop:]
    return text
