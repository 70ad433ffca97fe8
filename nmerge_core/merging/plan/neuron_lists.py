"""Lists of neurons that are groups of their own beside the categories: read, and put into the table of neurons."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmerge_core.architecture import Architecture
from nmerge_core.errors import InputError, short
from nmerge_core.files.small_file import read_small
from nmerge_core.parameters.inputs import checked_pairs

if TYPE_CHECKING:
    import pandas as pd

_LARGEST = 20_000_000  # bytes: a million neurons
_COLUMNS = ("layer", "neuron")


def read_lists(lists: Mapping[str, Any], base: Architecture) -> dict[str, list[tuple[int, int]]]:
    """Return the (layer, neuron) of each list, from its file where it is one.

    A CSV file has the columns layer and neuron, others are passed over; a JSON file is [[layer, neuron], …] or a list
    of objects with these keys.

    Raises:
        InputError: a file cannot be read or is none of these, there is no such neuron, or one is in two lists.
    """
    widths = {mlp.layer: mlp.d_ffn for mlp in base.layers}
    found: dict[str, list[tuple[int, int]]] = {}
    owner: dict[tuple[int, int], str] = {}
    for name, each in lists.items():
        found[name] = _read(Path(each)) if isinstance(each, str) else checked_pairs(each)
        for layer, neuron in found[name]:
            if neuron >= widths.get(layer, 0):
                raise _wrong(name, "neurons of the base", layer, neuron, "which it does not have; take it out")
            if other := owner.get((layer, neuron)):
                raise _wrong(name, "neurons of no other list", layer, neuron, f"of '{other}' too; take it out of one")
            owner[layer, neuron] = name
    return found


def with_lists(frame: pd.DataFrame, lists: Mapping[str, list[tuple[int, int]]]) -> pd.DataFrame:
    """Return neurons by layer, neuron and category with those of each list in a category of the list's name."""
    import pandas as pd  # here, as every merge imports this file

    rows = [(layer, neuron, name) for name, pairs in lists.items() for layer, neuron in pairs]
    found = frame.merge(pd.DataFrame(rows, columns=[*_COLUMNS, "list"]), how="left", on=[*_COLUMNS])
    return frame.assign(category=found["list"].where(found["list"].notna(), frame["category"]).to_numpy())


def _wrong(name: str, expected: str, layer: int, neuron: int, found: str) -> InputError:
    return InputError(f"list of neurons '{name}': expected {expected}, found neuron {neuron} of layer {layer}, {found}")


def _read(file: Path) -> list[tuple[int, int]]:
    text = read_small(file, _LARGEST)
    try:
        if file.suffix == ".json":
            rows = json.loads(text)
        else:
            rows = [
                [int(row[name]) for name in _COLUMNS] for row in csv.DictReader(text.decode("utf-8-sig").splitlines())
            ]
        if isinstance(rows, list):
            rows = [[row[name] for name in _COLUMNS] if isinstance(row, dict) else row for row in rows]
        return checked_pairs(rows)
    except (ValueError, KeyError, TypeError, RecursionError, csv.Error) as error:
        raise InputError(
            f"{short(str(file))}: expected a CSV with the columns layer and neuron, or JSON of [[layer, neuron], …]; "
            f"{short(str(error)) or 'found none'}"
        ) from error
