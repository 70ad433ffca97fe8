"""What a merge method takes of each model as a table, where there are so many that controls would fill the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import streamlit as st

from nmerge_core.parameters.parameter import Parameter
from nmerge_core.parameters.values import Number
from pages.shared.frame.settings import put
from pages.shared.recipe.controls import text_key

MANY = 5  # models from which on they have a row each
SEEN, ROW = 20, 35  # rows that are seen at once, and the pixels of one
MODEL = "Fine-tune"


@dataclass(frozen=True)
class Cell:
    """A parameter of one model; it stands under `key` in the page's state and, where it is no default, its address."""

    parameter: Parameter
    key: str
    default: Any

    def take(self) -> Any:
        """Return what it is set to: since the page was opened, else by the address, else the default."""
        asked = st.query_params.get(self.key)
        if self.key not in st.session_state and asked is not None:
            try:
                return self.parameter.from_text(asked)
            except ValueError:
                return self.default
        value = st.session_state.get(self.key)
        return self.default if value is None else value

    def keep(self, value: Any) -> None:
        """Set it, in the address too."""
        st.session_state[self.key] = value
        put(self.key, None if value == self.default else f"{value:g}" if isinstance(value, float) else str(value))


def model_table(
    method: str, parameters: Sequence[Parameter], models: Sequence[str], known: Mapping[str, Any], family: str
) -> list[dict[str, Any]]:
    """Draw parameters of each model as a table and return them by name; those left unset are not among them.

    Args:
        method: The merge method's name.
        parameters: Numbers and texts, a column each.
        models: What the models are called.
        known: What the family tells already: by a parameter's name a value per model.
        family: What is typed for one family does not stay for another.
    """
    rows = [
        [_cell(method, each, index, model, known, family) for each in parameters] for index, model in enumerate(models)
    ]
    values = [[cell.take() for cell in row] for row in rows]
    edited = _edit(f"merge_{method}_{parameters[0].name}_table", parameters, models, values)
    for row, found in zip(rows, edited, strict=True):
        for cell, value in zip(row, found, strict=True):
            cell.keep(value)
    st.session_state[f"merge_{method}_{parameters[0].name}_table_last"] = edited
    named = [dict(zip([each.name for each in parameters], found, strict=True)) for found in edited]
    return [{name: value for name, value in each.items() if value not in (None, "")} for each in named]


def _cell(method: str, parameter: Parameter, index: int, model: str, known: Mapping[str, Any], family: str) -> Cell:
    told = known.get(parameter.name)
    default, key = told[index] if told else parameter.default, f"merge_{method}_{parameter.name}_{model}"
    if isinstance(parameter, Number):
        return Cell(parameter, key, default)
    return Cell(parameter, text_key(key, family, default), default or "")


def _edit(
    name: str, parameters: Sequence[Parameter], models: Sequence[str], values: Sequence[Sequence[Any]]
) -> list[list[Any]]:
    """Draw the table and return its values.

    What it starts from stays while only the reader changes it, who would else lose the cell that is being edited; it is
    another one, and so another table, when the page is opened again or its values come from elsewhere.
    """
    state = st.session_state
    number = state.get(f"{name}_number", 0)
    begun: tuple[Sequence[str], Sequence[Sequence[Any]]] | None = state.get(f"{name}_begun")
    if f"{name}_{number}" not in state or state.get(f"{name}_last") != values or not begun or begun[0] != models:
        number += 1
        state[f"{name}_number"], state[f"{name}_begun"] = number, (models, values)
    titles = [each.title for each in parameters]
    frame = pd.DataFrame(state[f"{name}_begun"][1], columns=titles)
    frame.insert(0, MODEL, list(models))
    with st.container(key=name):
        edited = st.data_editor(
            frame,
            hide_index=True,
            height=ROW * (min(SEEN, len(models)) + 1) + 3,
            row_height=ROW,
            disabled=[MODEL],
            key=f"{name}_{number}",
            column_config={
                MODEL: st.column_config.TextColumn(width="medium"),
                **{each.title: _column(each) for each in parameters},
            },
        )
    return [[_plain(value) for value in row] for row in edited[titles].itertuples(index=False)]


def _column(parameter: Parameter) -> Any:
    if not isinstance(parameter, Number):
        return st.column_config.TextColumn(help=parameter.help)
    return st.column_config.NumberColumn(
        help=parameter.help,
        min_value=None if parameter.open_start else parameter.low,
        max_value=None if parameter.open_end else parameter.high,
        step=1 if parameter.whole else None,
        required=True,
        format="%d" if parameter.whole else "%.2f",
    )


def _plain(value: Any) -> Any:
    """Return a cell's value in Python's own type; an empty one as an empty text."""
    if value is None or value != value:
        return ""
    return value.item() if hasattr(value, "item") else value
