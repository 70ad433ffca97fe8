"""The kinds of values that a parameter has: numbers, words, yes or no, text, names, documents."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

from nmerge_core.parameters.parameter import Parameter

_LONGEST_RANGE = 10_000  # more than any model has layers: what is longer is a slip, and would fill the memory
_NUMBER = re.compile(r"[-+]?[0-9_]*\.?[0-9_]*(?:[eE][-+]?[0-9]{1,4})?")  # YAML 1.1 reads 1e-1 as text
_LARGEST = (2 - 2**-23) * 2.0**127  # of float32, in which everything is merged


@dataclass(frozen=True, kw_only=True)
class Number(Parameter):
    """A number from `low` to `high`, in steps of `step` `unit`s on a slider.

    `whole` ones are whole, `above_low` ones larger than `low`; with an open start or end `low` or `high` is only where
    a slider begins or ends. With `auto` the word auto is accepted too.
    """

    low: float | None = None
    high: float | None = None
    step: float | None = None
    unit: str = ""
    whole: bool = False
    above_low: bool = False
    open_start: bool = False
    open_end: bool = False
    auto: bool = False

    kind: ClassVar[str] = "number"

    @property
    def expected(self) -> str:
        """The range in words."""
        noun, auto = "a whole number" if self.whole else "a number", ", or auto" if self.auto else ""
        if (self.low is None or self.open_start) and (self.high is None or self.open_end):
            return noun + auto
        if self.whole and self.high is None:
            return f"{noun} from {self.low:g}{auto}"
        open_start = self.low is None or self.open_start
        left = "(−∞" if open_start else f"{'(' if self.above_low else '['}{self.low:g}"
        high = "∞)" if self.high is None or self.open_end else f"{self.high:g}]"
        return f"{noun} in {left}, {high}{auto}"

    def parse(self, value: Any) -> Any:
        """Return an int or a float in the range, or auto."""
        if self.auto and value == "auto":
            return value
        if isinstance(value, str) and len(value) <= 40 and _NUMBER.fullmatch(value):
            value = int(value) if value.isdigit() else float(value)
        numbers: Any = Integral if self.whole else Real
        if isinstance(value, bool) or not isinstance(value, numbers):
            raise ValueError
        below = self.low is not None and (value < self.low or (self.above_low and value == self.low))
        too_low = below and not self.open_start
        too_high = self.high is not None and value > self.high and not self.open_end
        if too_low or too_high:
            raise ValueError
        if not abs(value) <= _LARGEST:  # NaN is not either
            raise ValueError("float32 holds finite numbers up to 3.4e38")
        return int(value) if self.whole else float(value)

    def from_text(self, text: str) -> Any:
        """Read digits, or auto."""
        return self.parse(text)


@dataclass(frozen=True, kw_only=True)
class Numbers(Number):
    """Several numbers, each of the range; on the command line separated by commas, whole ones with ranges (1,3-5)."""

    kind: ClassVar[str] = "numbers"

    @property
    def expected(self) -> str:
        """The range of each in words."""
        return f"a list, each {super().expected}"

    def parse(self, value: Any) -> Any:
        """Return a list of numbers of the range, at least one."""
        values = value if isinstance(value, list) else [value]
        if not values:
            raise ValueError
        return [super(Numbers, self).parse(each) for each in values]

    def from_text(self, text: str) -> Any:
        """Read numbers separated by commas; 10-30/10 is every tenth from 10 to 30."""
        if not self.whole:
            return self.parse([float(part) for part in text.split(",")])
        found: set[int] = set()
        for part in text.split(","):
            ends = re.fullmatch(r"\s*(\d+)(?:-(\d+)(?:/([1-9]\d*))?)?\s*", part)
            if not ends or not 0 <= int(ends[2] or ends[1]) - int(ends[1]) < _LONGEST_RANGE:
                raise ValueError
            found.update(range(int(ends[1]), int(ends[2] or ends[1]) + 1, int(ends[3] or 1)))
        return self.parse(sorted(found))


@dataclass(frozen=True, kw_only=True)
class Choice(Parameter):
    """One of some words."""

    choices: tuple[str, ...]

    kind: ClassVar[str] = "choice"

    @property
    def expected(self) -> str:
        """The words."""
        return f"one of {', '.join(self.choices)}"

    def parse(self, value: Any) -> Any:
        """Return one of the words."""
        if not isinstance(value, str) or value not in self.choices:
            raise ValueError
        return value


@dataclass(frozen=True, kw_only=True)
class Flag(Parameter):
    """Yes or no."""

    default: Any = False

    kind: ClassVar[str] = "flag"

    @property
    def expected(self) -> str:
        """How YAML writes it."""
        return "true or false"

    def parse(self, value: Any) -> Any:
        """Return a bool; of 1.0 and "true" too, as mergekit does."""
        known = {0: False, 1: True, "false": False, "true": True}
        word = value.lower() if isinstance(value, str) else value
        if not isinstance(word, str | Real) or word not in known:
            raise ValueError
        return known[word]


@dataclass(frozen=True, kw_only=True)
class Permission(Flag):
    """Yes or no to something that decides whether there is a result, not which: a run's key has it only where yes."""


@dataclass(frozen=True, kw_only=True)
class Extra(Flag):
    """Yes or no to what a run writes beside its results, which stay the same: its key has it only where yes."""


@dataclass(frozen=True, kw_only=True)
class Manner(Flag):
    """Yes or no to how a run comes to its results, which stay the same: its key is without it."""


@dataclass(frozen=True, kw_only=True)
class Text(Parameter):
    """Any text."""

    kind: ClassVar[str] = "text"

    @property
    def expected(self) -> str:
        """The word."""
        return "text"

    def parse(self, value: Any) -> Any:
        """Return the text."""
        if not isinstance(value, str) or not value:
            raise ValueError
        return value


@dataclass(frozen=True, kw_only=True)
class Names(Parameter):
    """A list of names; one name is a list of one."""

    kind: ClassVar[str] = "names"

    @property
    def expected(self) -> str:
        """The words."""
        return "a list of names"

    def parse(self, value: Any) -> Any:
        """Return a tuple of names (a list would be a gradient over the layers)."""
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list | tuple) or not names or not all(n and isinstance(n, str) for n in names):
            raise ValueError
        return tuple(names)

    def from_text(self, text: str) -> Any:
        """Read names separated by commas."""
        return self.parse([name.strip() for name in text.split(",")])


@dataclass(frozen=True, kw_only=True)
class Document(Parameter):
    """What a YAML file says, the file or a mapping; what it means is checked where it is read."""

    @property
    def expected(self) -> str:
        """The words."""
        return f"a {self.kind}: a YAML file or a mapping"

    def parse(self, value: Any) -> Any:
        """Return it, a file as a `Path`."""
        if not isinstance(value, str | PathLike | Mapping):
            raise ValueError
        return Path(value) if isinstance(value, PathLike) else value

    def from_text(self, text: str) -> Path:
        """Read the path of a file."""
        return Path(text)


@dataclass(frozen=True, kw_only=True)
class Solved(Parameter):
    """What a finished merge fills in, seldom a hand: whatever JSON can hold, checked by the method."""

    kind: ClassVar[str] = "solved"

    @property
    def expected(self) -> str:
        """Where it comes from."""
        return "what a resolved recipe holds"
