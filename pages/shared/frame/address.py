"""Settings kept from another visit that today's controls cannot take, as of a family of other models and layers."""

from collections.abc import Sequence
from typing import Any

import streamlit as st


def forget_outside(key: str, low: float, high: float) -> None:
    """Forget a number kept from another visit that is out of today's range: another family may have fewer layers."""
    kept = st.session_state.get(key)
    if kept is None:
        return
    values: Sequence[float] = kept if isinstance(kept, list | tuple) else [kept]
    if not all(low <= value <= high for value in values):
        del st.session_state[key]


def forget_unknown(key: str, options: Any) -> None:
    """Forget a choice kept from another visit that is none of today's options."""
    kept = st.session_state.get(key)
    values = kept if isinstance(kept, list | tuple) else [kept]
    if kept is not None and not all(value in options for value in values):
        del st.session_state[key]
