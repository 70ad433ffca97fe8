"""A family's lists of neurons as a JSON file: {"name": [[layer, neuron], …]}, as recipes have them."""

import json
from collections.abc import Mapping
from typing import Any

import streamlit as st

from nmerge_core.errors import InputError, short
from nmerge_core.input_parameters import checked_pairs

LARGEST = 1_000_000  # bytes: more than a family keeps
FILE = "explorer_lists_file"

Lists = Mapping[str, Any]  # by name pairs of layer and neuron


def draw_export(family: str, lists: Lists) -> None:
    """Draw what saves a family's lists in a file."""
    content = {name: [list(pair) for pair in neurons] for name, neurons in lists.items()}
    st.download_button(
        "Export as JSON",
        lambda: json.dumps(content, ensure_ascii=False).encode(),
        f"neurons-{family}.json",
        "application/json",
        key="explorer_lists_export",
        type="tertiary",
        icon=":material/download:",
        on_click="ignore",
    )


def read_lists(content: bytes, widths: Mapping[int, int]) -> dict[str, list[tuple[int, int]]]:
    """Return the lists of a file; `widths` are the family's numbers of neurons by layer.

    Raises:
        InputError: it is no such file, or there is no such neuron.
    """
    try:
        if len(content) > LARGEST:
            raise ValueError(f"more than {LARGEST:,} bytes")
        found = json.loads(content)
        if not isinstance(found, dict) or not found:
            raise ValueError("no lists")
        lists = {str(name): checked_pairs(pairs) for name, pairs in found.items()}
        for name, pairs in lists.items():
            if missing := next((pair for pair in pairs if pair[1] >= widths.get(pair[0], 0)), None):
                raise ValueError(f"in {short(name)} neuron {missing[1]} of layer {missing[0]}, which no model here has")
    except (ValueError, RecursionError) as error:
        raise InputError(
            f'expected JSON of {{"name": [[layer, neuron], …]}}, found something else: {short(str(error))}'
        ) from error
    return lists
