"""One searched key of a recipe: where it is, and the values it may take."""

import math
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from nmerge_core.errors import InputError, shown
from nmerge_core.parameters.values import Number

# Names between dots, each with places in a list behind it; a category may have spaces and other signs in its name.
_PART = re.compile(r"([^.\[\]]+)((?:\[\d+\])*)")
_KEY = re.compile(rf"{_PART.pattern}(\.{_PART.pattern})*")
_END = Number(name="end", help="One end of a range.")
_MOST = 1_000  # values of a key, each of which is tried on the recipe beforehand
_DIGITS = 6  # significant ones of a value drawn from a range, so that a recipe shows what was merged


@dataclass(frozen=True)
class Axis:
    """A dotted path into a recipe, such as models[0].parameters.weight, with its values or its range.

    A range is drawn from evenly, or evenly in its logarithm where `log`; a `whole` one in whole numbers.
    """

    key: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    whole: bool = False

    @property
    def ends(self) -> tuple[Any, ...]:
        """Every value of a list, or both ends of a range."""
        return self.values or (self.value(self.low), self.value(self.high))

    def value(self, drawn: float) -> Any:
        """Return the value that stands for what was drawn: a place in the list, or a number of the range."""
        if self.values:
            return self.values[int(drawn)]
        return round(drawn) if self.whole else float(f"{drawn:.{_DIGITS}g}")

    @property
    def rises(self) -> bool:
        """Whether its values are numbers, each larger than the one before."""
        numbers = [each for each in self.values if isinstance(each, int | float) and not isinstance(each, bool)]
        pairs = zip(numbers, numbers[1:], strict=False)
        return len(numbers) == len(self.values) and all(low < high for low, high in pairs)

    @property
    def written(self) -> Any:
        """The axis as a sweep's YAML has it."""
        if self.values:
            return list(self.values)
        return {"low": self.low, "high": self.high, **({"log": True} if self.log else {})}

    def put(self, recipe: MutableMapping[str, Any], value: Any) -> None:
        """Set the key in a recipe as it was read from YAML, making the mappings on the way that are not there.

        Raises:
            InputError: a list on the way is too short, or something on the way is neither list nor mapping.
        """
        parts: list[str | int] = []
        for name, places in _PART.findall(self.key):
            parts += [name, *map(int, re.findall(r"\d+", places))]
        place: Any = recipe
        for depth, part in enumerate(parts):
            if isinstance(part, str) and part.isdecimal() and isinstance(place, list):  # models.0, as some write it
                part = int(part)
            if isinstance(part, int):
                if not isinstance(place, list) or part >= len(place):
                    there = f"{len(place)} entries" if isinstance(place, list) else f"{shown(place)}"
                    raise InputError(f"sweep, search key '{self.key}': expected a list with an entry {part}, {there}")
            elif not isinstance(place, dict):
                raise InputError(
                    f"sweep, search key '{self.key}': expected a mapping that holds {part}, found {shown(place)}"
                )
            if depth == len(parts) - 1:
                place[part] = value
            elif isinstance(place, dict) and place.get(part) is None:
                place[part] = {}
            place = place[part]


def read_axis(key: str, given: Any, *, whole: bool) -> Axis:
    """Read `[value, …]` or `{low, high, log}`; `whole` says that the recipe takes whole numbers there.

    Raises:
        InputError: it is neither, or the key is no dotted path.
    """
    where = f"sweep, search key '{key}'"
    if not _KEY.fullmatch(key):
        raise InputError(f"{where}: expected a path into the recipe such as parameters.lambda or models[0].model")
    if isinstance(given, list) and len(given) > _MOST:
        raise InputError(f"{where}: expected at most {_MOST:,} values, found {len(given):,}; search a range")
    if isinstance(given, list) and given:
        return Axis(key, values=tuple(given))
    if not isinstance(given, Mapping) or not {"low", "high"} <= given.keys() <= {"low", "high", "log"}:
        raise InputError(f"{where}: expected [value, …] or {{low: …, high: …}} (and log: true), found {shown(given)}")
    log = given.get("log", False)
    try:
        low, high = _END.parse(given["low"]), _END.parse(given["high"])
    except ValueError:
        low = high = math.nan
    least = "from 1" if whole else "above 0"  # of whole numbers the first with a logarithm
    if not low < high or not isinstance(log, bool) or (log and (low < 1 if whole else low <= 0)):
        raise InputError(f"{where}: expected numbers low < high ({least} with log: true), found {shown(given)}")
    return Axis(key, low=low, high=high, log=log, whole=whole)
