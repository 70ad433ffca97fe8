"""Parameter values that differ between tensors, in mergekit's two forms.

A list of numbers is a gradient, spread evenly over the layers and interpolated. A list of {filter, value} is looked
up: the first entry whose filter is part of the tensor's name, or that has none, gives the value.
"""

from typing import Any

_ROUNDING = 1e-9  # by which layers times their distance may miss a whole number


def at(value: Any, name: str, position: float) -> Any:
    """Return the value of one tensor at `position`, 0 the first layer and 1 the last; other values as they are.

    Embeddings lie at 0, the final norm and the head at 1; a tensor that no filter matches gets None.
    """
    if not isinstance(value, list) or not value:
        return value
    if isinstance(value[0], dict):
        return next((at(entry["value"], name, position) for entry in value if _matches(entry, name)), None)
    place = position * (len(value) - 1)
    if abs(place - round(place)) < _ROUNDING:  # of a value for each layer every layer has its own, and no other decides
        return value[round(place)]
    left = int(place)
    return value[left] + (place - left) * (value[left + 1] - value[left])


def filters(value: Any) -> list[str]:
    """Return the filters of a value."""
    entries = value if isinstance(value, list) else []
    return [entry["filter"] for entry in entries if isinstance(entry, dict) and entry.get("filter", "*") != "*"]


def _matches(entry: dict[str, Any], name: str) -> bool:
    return entry.get("filter", "*") == "*" or entry["filter"] in name
