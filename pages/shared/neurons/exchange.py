"""A family's lists of neurons as a JSON file: {"name": [[layer, neuron], …]}, as recipes have them.

Its notes on neurons are there too: {"notes": [[layer, neuron, text], …]}; no list is called so.
"""

import json
from collections.abc import Mapping
from typing import Any

import streamlit as st

from nmerge_core.errors import InputError, short, shown
from nmerge_core.family import Family
from nmerge_core.family.kept import NOTES
from nmerge_core.parameters.inputs import checked_pairs

LARGEST = 4_000_000  # bytes: more than a family keeps
FILE = "explorer_lists_file"

Lists = Mapping[str, list[tuple[int, int]]]  # by name pairs of layer and neuron
Notes = Mapping[tuple[int, int], str]


def draw_export(family: Family) -> None:
    """Draw what saves a family's lists and notes in a file."""
    content = exported(family)
    st.download_button(
        "Export as JSON",
        lambda: json.dumps(content, ensure_ascii=False).encode(),
        f"neurons-{family.name}.json",
        "application/json",
        key="explorer_lists_export",
        type="tertiary",
        icon=":material/download:",
        on_click="ignore",
    )


def exported(family: Family) -> dict[str, Any]:
    """Return the lists and notes of a family as the file has them."""
    lists = {name: [list(pair) for pair in neurons] for name, neurons in family.neurons.items()}
    notes = [[*place, note] for place, note in family.neuron_notes.items()]
    return lists | ({NOTES: notes} if notes else {})


def read_lists(content: bytes, widths: Mapping[int, int]) -> tuple[Lists, Notes]:
    """Return the lists and the notes of a file; `widths` are the family's numbers of neurons by layer.

    Raises:
        InputError: it is no such file, or there is no such neuron.
    """
    try:
        if len(content) > LARGEST:
            raise ValueError(f"more than {LARGEST:,} bytes")
        found = json.loads(content)
        if not isinstance(found, dict) or not found:
            raise ValueError("no lists")
        notes = _notes(found.pop(NOTES, []))
        lists = {str(name): checked_pairs(pairs) for name, pairs in found.items()}
        for name, pairs in {**lists, **({NOTES: [*notes]} if notes else {})}.items():
            if missing := next((pair for pair in pairs if pair[1] >= widths.get(pair[0], 0)), None):
                raise ValueError(f"in {short(name)} neuron {missing[1]} of layer {missing[0]}, which no model here has")
    except (ValueError, RecursionError) as error:
        raise InputError(
            f'expected JSON of {{"name": [[layer, neuron], …]}}, found something else: {short(str(error))}'
        ) from error
    return lists, notes


def _notes(given: Any) -> Notes:
    """Return the notes of a file by their neurons; raises ValueError where it has something else."""
    whole = isinstance(given, list) and all(isinstance(each, list) and len(each) == 3 for each in given)
    if not whole or not all(isinstance(text, str) for *_, text in given):
        raise ValueError(f"expected [layer, neuron, text]; found {shown(given)}")
    if given:
        checked_pairs([each[:2] for each in given])
    return {(layer, neuron): text for layer, neuron, text in given}
