"""Tables of which a row, or the head of a column, is clicked."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import streamlit as st

Clicked = Callable[[int | None, str | None], None]  # told the row, or the column whose head it was


def draw_clickable(key: str, frame: pd.DataFrame, clicked: Clicked, *, heads: bool = False, **options: Any) -> None:
    """Draw a table that tells which row is clicked or, with `heads`, which column's head.

    It is another one after each click: a browser tells of no second click on a cell that is chosen already, though by
    then another row may stand there.
    """
    turn: int = st.session_state.get(key, 0)
    st.dataframe(
        frame,
        hide_index=True,
        key=f"{key}_{turn}",
        on_select=lambda: _tell(key, turn, clicked),
        selection_mode=["single-cell", "single-column"] if heads else "single-cell",
        **options,
    )


def _tell(key: str, turn: int, clicked: Clicked) -> None:
    chosen: dict[str, Sequence[Any]] = st.session_state[f"{key}_{turn}"]["selection"]
    st.session_state[key] = turn + 1
    clicked(next((row for row, _ in chosen["cells"]), None), next(iter(chosen["columns"]), None))
